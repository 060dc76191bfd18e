// What the dashboards are held to: Grafana's own types. Its enumerations are of
// strings, which JSON has literally, so Plain takes their values for them.
import type { Dashboard, FieldConfig, Panel, RowPanel } from '@grafana/schema';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as Gauge } from '@grafana/schema/dist/esm/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen';
import type { Options as BarGauge } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { Options as TimeSeries, FieldConfig as Lines } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string ? `${T}` : T extends (infer E)[] ? Plain<E>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

// The query of the data source prometheus is no part of the package.
interface Query {
  refId: string;
  datasource: { type: 'prometheus'; uid: string };
  expr: string;
  legendFormat?: string;
  editorMode: 'code';
  range: boolean;
  instant: boolean;
}

type Of<Kind, Options, Custom> = Omit<Plain<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Kind;
  title: string;
  description: string;
  targets: Query[];
  options: Partial<Plain<Options>>;
  fieldConfig: { overrides: never[]; defaults: Omit<Plain<FieldConfig>, 'custom'> & { unit: string; custom?: Partial<Plain<Custom>> } };
};

type Row = Omit<Plain<RowPanel>, 'type' | 'panels'> & { type: 'row'; panels: never[] };

export type Ours = Omit<Plain<Dashboard>, 'panels'> & {
  uid: string;
  title: string;
  panels: (Row | Of<'stat', Stat, never> | Of<'gauge', Gauge, never> | Of<'bargauge', BarGauge, never> | Of<'timeseries', TimeSeries, Lines>)[];
};
