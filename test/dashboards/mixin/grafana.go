package mixin

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// object is one of JSON; encoding sorts its keys, so that the files are stable.
type object = map[string]any

// schemaVersion is the newest of Grafana's dashboards in this form; it migrates
// older ones by itself.
const schemaVersion = 39

var datasource = object{"type": "prometheus", "uid": "${datasource}"}

// JSON is the dashboard as Grafana imports it.
func (d Dashboard) JSON() ([]byte, error) {
	var panels []object
	id := 0
	next := func() int { id++; return id }
	for _, r := range d.Rows {
		panels = append(panels, object{
			"type": "row", "id": next(), "title": r.Title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": r.Panels[0].Y - 1, "w": columns, "h": 1},
		})
		for _, p := range r.Panels {
			panels = append(panels, p.object(next()))
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(object{
		"uid": "postern-" + d.File, "title": d.Title, "description": d.Help, "tags": []string{"postern"},
		"schemaVersion": schemaVersion, "editable": true, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
		"time": object{"from": "now-6h", "to": "now"}, "annotations": object{"list": []object{}},
		"links": []object{{
			"type": "dashboards", "title": "Postern", "tags": []string{"postern"}, "asDropdown": true, "includeVars": true,
			"keepTime": true, "targetBlank": false, "icon": "external link", "tooltip": "", "url": "",
		}},
		"templating": object{"list": d.templating()},
		"panels":     panels,
	})
	return out.Bytes(), err
}

func (d Dashboard) templating() []object {
	list := []object{{"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "refresh": 1, "hide": 0, "multi": false, "includeAll": false}}
	for _, name := range d.Variables {
		v := variables[name]
		from := v.metric
		if name != "instance" {
			from += `{instance=~"$instance"}`
		}
		query := fmt.Sprintf("label_values(%s, %s)", from, name)
		o := object{
			"type": "query", "name": name, "label": v.label, "datasource": datasource,
			"query": object{"query": query, "refId": name}, "refresh": 2, "sort": 1, "hide": 0,
			"multi": true, "includeAll": true, "current": object{"text": "All", "value": "$__all"},
		}
		// Of agents and targets all are all, those of no session yet too. All hosts
		// are those with a daemon: metrics of processes are everybody's.
		if name != "instance" {
			o["allValue"] = ".*"
		}
		list = append(list, o)
	}
	return list
}

func (p *Panel) object(id int) object {
	var targets []object
	for i, q := range p.Queries {
		t := object{"refId": string(rune('A' + i)), "datasource": datasource, "expr": q.Expr, "editorMode": "code", "range": !p.Instant(), "instant": p.Instant()}
		if q.Legend != "" {
			t["legendFormat"] = q.Legend
		}
		targets = append(targets, t)
	}
	kind, options, custom := p.visual()
	defaults := object{"unit": p.Unit, "color": object{"mode": "palette-classic"}}
	if custom != nil {
		defaults["custom"] = custom
	}
	if len(p.Thresholds) > 0 {
		defaults["thresholds"] = object{"mode": "absolute", "steps": p.steps()}
	}
	if p.Kind != "lines" {
		defaults["color"] = object{"mode": "thresholds"}
	}
	if p.Unit == "percentunit" && p.Kind != "lines" {
		defaults["min"], defaults["max"] = 0, 1
	}
	if p.Kind == "lines" {
		defaults["min"] = 0
	}
	return object{
		"type": kind, "id": id, "title": p.Title, "description": p.Help, "datasource": datasource,
		"gridPos": object{"x": p.X, "y": p.Y, "w": p.W, "h": p.H}, "targets": targets,
		"options": options, "fieldConfig": object{"defaults": defaults, "overrides": []object{}},
	}
}

// steps are Grafana's: the lowest begins at minus infinity, which JSON writes
// as null.
func (p *Panel) steps() (steps []object) {
	for i, t := range p.Thresholds {
		s := object{"color": t.Colour, "value": t.From}
		if i == 0 {
			s["value"] = nil
		}
		steps = append(steps, s)
	}
	return steps
}

// visual are the parts that each of Grafana's panels has its own of.
func (p *Panel) visual() (kind string, options, custom object) {
	last := object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}
	switch p.Kind {
	case "stat":
		return "stat", object{
			"reduceOptions": last, "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto",
			"textMode": "auto", "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
		}, nil
	case "gauge":
		return "gauge", object{
			"reduceOptions": last, "orientation": "auto", "showThresholdLabels": true, "showThresholdMarkers": true,
			"minVizHeight": 75, "minVizWidth": 75, "sizing": "auto",
		}, nil
	case "bars":
		return "bargauge", object{
			"reduceOptions": last, "orientation": "horizontal", "displayMode": "basic", "valueMode": "color", "showUnfilled": true,
			"namePlacement": "auto", "sizing": "auto", "minVizHeight": 16, "minVizWidth": 8, "maxVizHeight": 300,
			"legend": object{"showLegend": false, "displayMode": "list", "placement": "bottom", "calcs": []string{}},
		}, nil
	}
	custom = object{
		"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false,
		"axisPlacement": "auto", "stacking": object{"mode": "none", "group": "A"}, "thresholdsStyle": object{"mode": "off"},
	}
	if p.Stack {
		custom["fillOpacity"], custom["stacking"] = 40, object{"mode": "normal", "group": "A"}
	}
	if len(p.Thresholds) > 0 {
		custom["thresholdsStyle"] = object{"mode": "dashed"}
	}
	return "timeseries", object{
		"legend":  object{"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []string{}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}, custom
}
