// The report's behaviour: unpack Plotly, draw in the theme's colours, hide and show optimizers, sort and filter the runs.
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  let data = JSON.parse($("#data").textContent);
  const hidden = new Set(); // numbers of the optimizers that the legend has switched off
  const logs = {}; // key of a figure -> whether the reader wants it logarithmic
  const bound = new WeakSet(); // what listens already, when a live page has grown
  const fresh = (element) => element && !bound.has(element) && bound.add(element);
  let measure = data.curves[0]?.key;
  // the buttons are listed, not taken away from Plotly's own, some of which would send the data to a server
  const buttons = [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const config = { displaylogo: false, responsive: true, modeBarButtons: buttons };

  // --- figures

  function css(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // A trace in the theme's colours: figures.py gives each a series (a number) and a role.
  function dressed(trace) {
    const { series, role } = trace.meta;
    const colour = css(`--c${series % 8}`);
    const line = { ...trace.line, color: colour, width: { line: 2.2, band: 0, broken: 1, trial: 1, guide: 1 }[role] ?? 1 };
    const made = { ...trace, line, showlegend: false, visible: !hidden.has(series) };
    if (role === "band" && all(".legend [data-series]").length - hidden.size > 8) made.visible = false; // too many to tell apart
    if (role === "band") made.fillcolor = colour + "30";
    if (role === "broken") { line.dash = "dash"; made.opacity = 0.75; }
    if (role === "trial") made.opacity = 0.6;
    if (role === "guide") made.opacity = 0.45;
    if (trace.marker) {
      const edge = { chosen: [css("--ink"), 1.5], done: [css("--page"), 1], default: [colour, 2], diverged: [colour, 2] }[role];
      made.marker = { ...trace.marker, color: colour, line: edge ? { color: edge[0], width: edge[1] } : {} };
    }
    return made;
  }

  function themed(layout) {
    const axis = { gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, automargin: true, ticks: "outside", tickcolor: css("--line"), showline: true };
    const narrow = window.innerWidth < 640;
    return {
      ...layout,
      xaxis: { ...axis, ...layout.xaxis, nticks: narrow ? 6 : undefined },
      yaxis: { ...axis, ...layout.yaxis },
      shapes: (layout.shapes ?? []).map((shape) => ({ ...shape, fillcolor: css("--rail"), layer: "below" })),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: css("--ink"), size: narrow ? 12.5 : 14, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: css("--page"), bordercolor: css("--line"), font: { color: css("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--link") },
      margin: { l: 8, r: 12, t: 28, b: 8 },
    };
  }

  function drawCurves() {
    const figure = data.curves[Number($("#measure").value)], box = $("#log");
    const log = logs[figure.key] ?? figure.log;
    measure = figure.key;
    box.checked = log;
    $("#curves-caption").textContent = figure.caption;
    box.disabled = !figure.ranges.log;
    const kind = log ? "log" : "linear", layout = themed(figure.layout);
    layout.uirevision = `${figure.key} ${kind}`; // while it is the same, the reader's zoom stays
    layout.yaxis = { ...layout.yaxis, type: kind, range: figure.ranges[kind] ?? undefined };
    if (kind === "log") layout.yaxis.dtick = decades(figure.ranges.log);
    Plotly.react("plot-curves", figure.data.map(dressed), layout, config);
  }

  // One tick a decade on a wide range, 1-2-5 on a narrow one; Plotly's own choice labels minor ticks too densely.
  function decades(range) {
    const span = range[1] - range[0];
    return span > 6 ? Math.ceil(span / 6) : span > 1.5 ? 1 : span > 0.5 ? "D2" : undefined;
  }

  function drawSensitivity() {
    const layout = themed(data.sensitivity.layout);
    layout.xaxis.dtick = 1;
    layout.uirevision = "sensitivity";
    Plotly.react("plot-sensitivity", data.sensitivity.data.map(dressed), layout, config);
  }

  function draw() {
    if (!window.Plotly) return;
    if (data.curves.length) drawCurves();
    if (data.sensitivity) drawSensitivity();
    document.documentElement.dataset.drawn = "yes";
  }

  let unpacking = null;

  function start() {
    if (!data.curves.length && !data.sensitivity) return;
    unpacking ??= unpack();
    unpacking.then(draw).catch((error) => {
      all(".plot").forEach((plot) => { plot.innerHTML = "<p>The figure could not be drawn by this browser; the numbers are in the tables.</p>"; });
      console.error(error);
    });
  }

  async function unpack() {
    const packed = Uint8Array.from(atob($("#plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script); // an inline script runs at once
  }

  function legend() {
    if (!fresh($(".legend"))) return;
    const chips = all(".legend [data-series]");
    const show = () => {
      chips.forEach((chip) => chip.setAttribute("aria-pressed", String(!hidden.has(Number(chip.dataset.series)))));
      draw();
    };
    const alone = (series) => chips.forEach((chip) => {
      const other = Number(chip.dataset.series);
      other === series ? hidden.delete(other) : hidden.add(other);
    });
    chips.forEach((chip) => {
      const series = Number(chip.dataset.series);
      chip.addEventListener("click", (event) => {
        if (event.shiftKey) alone(series);
        else hidden.has(series) ? hidden.delete(series) : hidden.add(series);
        show();
      });
      chip.addEventListener("dblclick", () => { alone(series); show(); });
    });
    $(".legend .all")?.addEventListener("click", () => { hidden.clear(); show(); });
  }

  // --- the table of runs

  function sorting() {
    const table = $("#all-runs");
    if (!fresh(table)) return;
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("button")?.parentElement;
      if (!head) return;
      const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      all("th", table.tHead).forEach((other) => other.setAttribute("aria-sort", other === head ? direction : "none"));
      sort();
    });
    $("#filter").addEventListener("input", filter);
  }

  function sort() {
    const head = $("#all-runs th[aria-sort$=ending]");
    if (!head) return;
    const body = $("#all-runs").tBodies[0], numeric = head.classList.contains("n");
    const direction = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[head.cellIndex];
      return [row, numeric ? (cell.dataset.v === undefined ? NaN : Number(cell.dataset.v)) : cell.textContent];
    });
    keyed.sort(([, a], [, b]) => {
      if (!numeric) return direction * a.localeCompare(b, "en", { numeric: true });
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // without a number: last, either way
      return direction * (a - b);
    });
    body.append(...keyed.map(([row]) => row));
  }

  function filter() {
    const words = ($("#filter")?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, rows = all("#all-runs tbody tr");
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    if ($("#count")) $("#count").textContent = words.length ? `${shown} of ${rows.length} runs` : `${shown} runs`;
  }

  // --- start

  function listen() {
    sorting();
    legend();
    if (!fresh($("#measure"))) return;
    $("#measure").addEventListener("change", drawCurves);
    $("#log").addEventListener("change", (event) => { logs[measure] = event.target.checked; drawCurves(); });
  }

  // For the live page, when words and tables have changed to those of the document `sent`: the figures' new data are in it.
  window.thalweg = {
    refresh(sent) {
      data = JSON.parse(sent.querySelector("#data").textContent);
      listen();
      sort();
      filter();
      const place = data.curves.findIndex((figure) => figure.key === measure);
      if ($("#measure")) $("#measure").value = String(Math.max(0, place));
      start();
    },
  };

  listen();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const paper = (on) => () => { document.documentElement.classList.toggle("light", on); draw(); };
  addEventListener("beforeprint", paper(true));
  addEventListener("afterprint", paper(false));
  start();
})();
