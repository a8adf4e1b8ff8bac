// Draws the charts of a report from the JSON in the page. All numbers are drawn as they stand there: nothing is smoothed.
(() => {
  "use strict";
  const report = JSON.parse(document.getElementById("data").textContent);
  const light = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"];
  const dark = ["#4DA3D9", "#E69F00", "#2BBE92", "#F07F3C", "#A5D8F5", "#DD9BC0"];
  const dashes = ["solid", "dash", "dot", "dashdot"];
  const clocks = { epoch: "epoch", step: "step", pflop: "PFLOP", seconds: "seconds of training" };
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d"] };
  const drawn = [];

  const isDark = () => matchMedia("screen and (prefers-color-scheme: dark)").matches;
  const style = (group) => group === null
    ? { color: "#888888", dash: "dot" }
    : { color: (isDark() ? dark : light)[group % 6], dash: dashes[Math.floor(group / 6) % 4] };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isShare = (key) => /(_|^)(top1|top5|accuracy)$/.test(key);
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function layout(more) {
    const axis = (own) => ({ gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true, exponentformat: "e", ...own });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--text"), family: "system-ui, sans-serif", size: 13 },
      margin: { l: 60, r: 20, t: 20, b: 50 }, hovermode: "closest", hoverlabel: { namelength: -1 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--text") }, ...more,
      xaxis: axis(more.xaxis), yaxis: axis(more.yaxis),
    };
  }

  function show(element, make) {
    const draw = () => { const [traces, more] = make(); return Plotly.react(element, traces, layout(more), config); };
    drawn.push(draw);
    draw();
    return draw;
  }

  function chooser(place, title, names, first) {
    const label = document.createElement("label");
    const select = document.createElement("select");
    for (const name of names) select.add(new Option(clocks[name] || name.replace(/_/g, " "), name, false, name === first));
    label.append(title + " ", select);
    place.append(label);
    return select;
  }

  function curves(board, element, controls) {
    const keys = [...new Set(board.curves.flatMap((curve) => Object.keys(curve.values)))];
    const wanted = [board.metric, board.split + "_top1", board.split + "_loss", "train_top1", "train_loss"];
    const count = (key) => board.curves.filter((curve) => key in curve.values).length;
    const most = Math.max(...keys.map(count));
    const metric = chooser(controls, "Shown:", keys, wanted.find((key) => keys.includes(key) && count(key) === most) || keys[0]);
    const clock = chooser(controls, "against", Object.keys(clocks), "epoch");
    const groups = new Set();
    const make = () => {
      groups.clear();
      const many = board.curves.length > 0 && new Set(board.curves.map((curve) => curve.group === null ? curve.label : curve.group)).size > 8;
      const traces = board.curves.filter((curve) => curve.values[metric.value]).map((curve) => {
        const first = curve.group === null || !groups.has(curve.group);
        groups.add(curve.group);
        const name = curve.group === null ? curve.label : (many ? curve.group + 1 + ". " : "") + board.rows[curve.group].label;
        return {
          type: "scatter", mode: curve.clocks.step.length > 1 ? "lines" : "markers", name: escaped(many && name.length > 36 ? name.slice(0, 34) + "\u2026" : name), line: { ...style(curve.group), width: 1.6 },
          legendgroup: curve.group === null ? curve.label : String(curve.group), showlegend: first,
          x: curve.clocks[clock.value], y: curve.values[metric.value], text: escaped(curve.label),
          hovertemplate: "%{text}<br>%{x:.5~g}: %{y:" + (isShare(metric.value) ? ".2%" : ".4~g") + "}<extra></extra>",
        };
      });
      return [traces, {
        xaxis: { title: { text: clocks[clock.value] } },
        yaxis: { title: { text: metric.value.replace(/_/g, " ") }, tickformat: isShare(metric.value) ? ".4~%" : "" },
        legend: many ? { font: { size: 11 } } : { orientation: "h", y: -0.2 }, uirevision: metric.value + clock.value, showlegend: true,
      }];
    };
    const draw = show(element, make);
    metric.onchange = clock.onchange = draw;
  }

  function costs(board, element) {
    show(element, () => {
      const rows = board.rows.filter((row) => row.pflop !== null);
      const front = rows.filter((row) => row.front).sort((a, b) => a.pflop - b.pflop);
      const reach = (row, side) => row.interval ? Math.abs(row.interval[side] - row.mean) : 0;
      const points = {
        type: "scatter", mode: "markers", name: "rows of the table", x: rows.map((row) => row.pflop), y: rows.map((row) => row.mean),
        text: rows.map((row) => (row.complete ? row.rank + ". " : "") + escaped(row.label) + (row.optimistic ? " (OPTIMISTIC)" : "") + (row.complete ? "" : " (INCOMPLETE)")),
        marker: { size: 9, color: rows.map((row) => style(row.rank - 1).color), symbol: rows.map((row) => row.optimistic ? "x" : "circle") },
        error_y: { type: "data", symmetric: false, array: rows.map((row) => reach(row, 1)), arrayminus: rows.map((row) => reach(row, 0)),
          color: colour("--soft"), thickness: 1, width: 3 },
        hovertemplate: "%{text}<br>%{x:.4~g} PFLOP: %{y:" + (board.share ? ".2%" : ".4~g") + "}<extra></extra>",
      };
      const line = { type: "scatter", mode: "lines+markers", name: "Pareto front", x: front.map((row) => row.pflop), y: front.map((row) => row.mean),
        line: { color: colour("--soft"), dash: "dot", shape: "hv" }, marker: { size: 15, symbol: "circle-open", color: colour("--soft") }, hoverinfo: "skip" };
      const low = Math.min(...rows.map((row) => row.pflop)), high = Math.max(...rows.map((row) => row.pflop));
      const scale = low > 0 && high > 20 * low ? { type: "log" } : high - low < 1e-6 * high ? { range: [0, 2 * high] } : {};
      return [[line, points], {
        xaxis: { title: { text: "PFLOP of training" }, ...scale },
        yaxis: { title: { text: (board.split + " " + board.metric.replace(board.split + "_", "")).replace(/_/g, " ") }, tickformat: board.share ? ".4~%" : "" },
        legend: { orientation: "h", y: -0.3 },
      }];
    });
  }

  function parallel(board, element) {
    show(element, () => {
      const rows = board.rows.filter((row) => row.complete);
      const keys = [...new Set(rows.flatMap((row) => Object.keys(row.settings)))];
      const text = (value) => typeof value === "string" ? value : value === undefined ? "not active" : JSON.stringify(value);
      const dimensions = keys.map((key) => {
        const values = rows.map((row) => row.settings[key]);
        const known = values.filter((value) => value !== undefined);
        if (!known.every((value) => typeof value === "number")) {
          const levels = [...new Set(values.map(text))].sort();
          return { label: escaped(key), values: values.map((value) => levels.indexOf(text(value))), tickvals: levels.map((_, place) => place),
            ticktext: levels.map(escaped) };
        }
        const low = Math.min(...known), high = Math.max(...known), log = low > 0 && high / low >= 10;
        if (!log && known.length === values.length) return { label: escaped(key), values };
        const scale = log ? Math.log10 : (value) => value;
        const shown = [...new Set([low, log ? Math.sqrt(low * high) : (low + high) / 2, high])];
        // Rows where the setting is not active have a place of their own, below the range.
        const beside = scale(low) - 0.2 * (scale(high) - scale(low) || 1);
        const off = known.length < values.length ? [beside] : [];
        return { label: escaped(key) + (log ? " (log)" : ""), values: values.map((value) => value === undefined ? beside : scale(value)),
          tickvals: [...off, ...shown.map(scale)], ticktext: [...off.map(() => "not active"), ...shown.map((value) => String(+value.toPrecision(2)))] };
      });
      const results = rows.map((row) => row.mean);
      dimensions.push({ label: escaped(board.metric), values: results, tickformat: board.share ? ".1%" : "" });
      return [[{ type: "parcoords", dimensions, labelfont: { color: colour("--text") }, tickfont: { color: colour("--text") },
        rangefont: { color: colour("--soft") }, unselected: { line: { opacity: 0.08 } },
        line: { color: results, reversescale: board.mode === "min",
          colorscale: isDark() ? [[0, "#46566a"], [1, "#ffc069"]] : [[0, "#c9d3dc"], [1, "#0072B2"]], showscale: false } }],
      { margin: { l: 80, r: 80, t: 60, b: 30 } }];
    });
  }

  report.boards.forEach((board, number) => {
    const at = (kind) => document.getElementById(kind + "-" + number);
    if (at("curves")) curves(board, at("curves"), at("curves-controls"));
    if (at("costs")) costs(board, at("costs"));
    if (at("parallel")) parallel(board, at("parallel"));
  });
  const again = () => drawn.forEach((draw) => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("print").addEventListener("change", again);
})();
