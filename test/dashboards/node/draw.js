// Draws a dashboard with what its queries returned, about as Grafana would. It
// runs in the page; uPlot is there.
const colours = ['#3274d9', '#e0752d', '#37872d', '#8f3bb8', '#c4162a', '#b58900', '#1f9e9e', '#7a6a5a', '#e36bb5', '#5a6fae'];
const named = { green: '#37872d', yellow: '#b58900', red: '#c4162a' };
const cell = { w: 1228 / 24, h: 25 };

function scaled(v, steps, base) {
  let i = 0;
  while (i < steps.length - 1 && Math.abs(v) >= base) { v /= base; i++; }
  return number(v) + steps[i];
}

function number(v) {
  if (v === 0) return '0';
  const digits = Math.abs(v) >= 100 ? 0 : Math.abs(v) >= 10 ? 1 : 2;
  return String(Number(v.toFixed(Math.abs(v) < 0.1 ? 3 : digits)));
}

function format(v, unit) {
  switch (unit) {
    case 'percentunit': return number(v * 100) + ' %';
    case 'ops': return number(v) + '/s';
    case 'reqps': return number(v) + '/s';
    case 'bytes': return scaled(v, [' B', ' KiB', ' MiB', ' GiB'], 1024);
    case 'Bps': return scaled(v, [' B/s', ' KB/s', ' MB/s'], 1000);
    case 'bool_on_off': return v ? 'On' : 'Off';
    case 's': return v === 0 ? '0 s' : v < 0.001 ? number(v * 1e6) + ' µs' : v < 1 ? number(v * 1000) + ' ms' : v < 120 ? number(v) + ' s' : number(v / 60) + ' min';
    case 'dateTimeFromNow': {
      const s = (v - Date.now()) / 1000, away = Math.abs(s) < 90 ? number(Math.round(Math.abs(s))) + ' s' : Math.round(Math.abs(s) / 60) + ' min';
      return s < 0 ? away + ' ago' : 'in ' + away;
    }
  }
  return scaled(v, ['', ' k', ' M'], 1000);
}

function colour(v, thresholds, otherwise) {
  let found = otherwise;
  for (const [i, t] of (thresholds || []).entries()) if (i === 0 || v >= t.From) found = named[t.Colour];
  return found;
}

const last = (s) => s.points[s.points.length - 1][1];

function make(kind, parent, style, text) {
  const e = document.createElement(kind);
  Object.assign(e.style, style || {});
  if (text !== undefined) e.textContent = text;
  parent.append(e);
  return e;
}

function stats(p, box) {
  const all = make('div', box);
  all.className = 'values';
  if (p.series.length === 0) make('div', all, { color: '#888' }, 'No data').className = 'value';
  for (const s of p.series) {
    const v = make('div', all, { color: colour(last(s), p.thresholds, '#24292e'), fontSize: p.series.length > 6 ? '13px' : '' }, format(last(s), p.unit));
    v.className = 'value';
    if (p.series.length > 1 || s.name) make('small', v, {}, s.name);
  }
}

function bars(p, box) {
  const most = p.unit === 'percentunit' ? Math.max(1, ...p.series.map(last)) : Math.max(...p.series.map(last));
  const order = p.title === 'Waits by length' ? p.series.sort((a, b) => last(a) - last(b) || parseFloat(a.name.slice(2)) - parseFloat(b.name.slice(2))) : p.series.sort((a, b) => last(b) - last(a));
  for (const s of order.slice(0, 9)) {
    const line = make('div', box);
    line.className = 'bar';
    make('span', line, {}, s.name);
    make('i', line, { width: 40 * last(s) / most + '%', background: colour(last(s), p.thresholds, colours[0]) });
    make('em', line, {}, format(last(s), p.unit));
  }
}

function lines(p, box, w, h) {
  const times = [...new Set(p.series.flatMap((s) => s.points.map((x) => x[0])))].sort((a, b) => a - b);
  const rows = p.series.map((s) => { const at = new Map(s.points); return times.map((t) => at.get(t) ?? null); });
  if (p.stack) for (let i = 1; i < rows.length; i++) rows[i] = rows[i].map((v, j) => (v ?? 0) + (rows[i - 1][j] ?? 0));
  const drawn = rows.map((row, i) => ({ row, name: p.series[i].name, stroke: colours[i % colours.length] }));
  if (p.stack) drawn.reverse();
  const top = Math.max(...rows.flat().map((v) => v ?? 0));
  new uPlot({
    width: w - 4, height: h - 46, legend: { show: false }, cursor: { show: false }, padding: [8, 8, 0, 0],
    scales: { y: { range: [0, top > 0 ? top * 1.08 : 1] } },
    axes: [
      { size: 30, stroke: '#666', grid: { stroke: '#f0f0f0' }, values: (_, all) => all.map((t) => new Date(t * 1000).toISOString().slice(11, 19)), space: 70, font: '10px DejaVu Sans' },
      { size: 66, stroke: '#666', grid: { stroke: '#f0f0f0' }, values: (_, all) => all.map((v) => format(v, p.unit)), space: 28, font: '10px DejaVu Sans' },
    ],
    series: [{}, ...drawn.map((d) => ({ stroke: d.stroke, width: 1.5, fill: p.stack ? d.stroke + '66' : d.stroke + '14', points: { show: false } }))],
  }, [times, ...drawn.map((d) => d.row)], box);
  const legend = make('div', box);
  legend.className = 'legend';
  for (const d of drawn) {
    const name = make('span', legend);
    make('i', name, { background: d.stroke });
    name.append(d.name);
  }
}

function draw(d) {
  document.querySelector('h1').textContent = d.title;
  document.querySelector('#help').textContent = d.help;
  const grid = document.querySelector('#grid');
  let bottom = 0;
  for (const r of d.rows) {
    make('div', grid, { top: (r.panels[0].y - 1) * cell.h + 5 + 'px' }, r.title).className = 'row';
    for (const p of r.panels) {
      const w = p.w * cell.w - 6, h = p.h * cell.h - 6;
      const box = make('div', grid, { left: p.x * cell.w + 3 + 'px', top: p.y * cell.h + 'px', width: w + 'px', height: h + 'px' });
      box.className = 'panel';
      make('b', box, {}, p.title);
      if (p.kind === 'lines' && p.series.length > 0) lines(p, box, w, h);
      else if (p.kind === 'bars') bars(p, box);
      else stats(p, box);
      bottom = Math.max(bottom, (p.y + p.h) * cell.h);
    }
  }
  grid.style.height = bottom + 4 + 'px';
  return document.querySelectorAll('.panel').length;
}
