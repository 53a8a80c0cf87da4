// The page's behaviour: unpack Plotly and the figures, draw in the theme's colours, hide and show optimizers, save figures, sort and
// filter the runs.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;
  const hidden = new Set(); // numbers of the optimizers that the legend has switched off
  const figures = []; // {name, views, at, element, logs, logX, same, keep, zoom}: what is drawn, and how
  const bound = new WeakSet(); // what listens already: a live page grows, and is looked through again
  const fresh = (element) => Boolean(element) && !bound.has(element) && Boolean(bound.add(element));
  // the buttons are listed, not taken away from Plotly's own, some of which would send the data to a server
  const buttons = [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const config = { displaylogo: false, responsive: true, modeBarButtons: buttons };

  // --- the theme

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const narrow = () => root.classList.contains("paper") ? false : innerWidth < 640;

  const widths = { line: 2.2, raw: 1, band: 0, broken: 1.2, trial: 1, guide: 1.2, span: 2.5, path: 1, stray: 1, pick: 3 };
  const opacities = { raw: 0.45, broken: 0.75, trial: 0.6, guide: 0.5, path: 0.45, stray: 0.5, faded: 0.08 };

  // A trace in the theme's colours: Python gives each a series (a number) and a role. `banded`: whether bands are drawn.
  function dressed(trace, banded) {
    const { series, role } = trace.meta; // a run of a small sweep has a colour of its own
    const colour = css(`--c${(trace.meta.colour ?? series) % 8}`);
    const made = { ...trace, line: { ...trace.line, color: colour, width: widths[role] ?? 1 }, showlegend: false };
    made.visible = !hidden.has(series) && (role !== "band" || banded) && (role !== "raw" || !banded);
    if (role in opacities) made.opacity = opacities[role];
    if (role === "band") made.fillcolor = colour + "2c";
    if (role === "broken") made.line.dash = "dash";
    if (role === "stray") made.line.dash = "dot";
    if (trace.textposition) made.textfont = { color: colour };
    if (trace.error_x) made.error_x = { ...trace.error_x, color: colour, thickness: 1.2, width: 4 };
    if (trace.marker) {
      const edge = { chosen: [css("--ink"), 1.8], done: [css("--page"), 1], default: [css("--ink"), 1.3], diverged: [colour, 2], span: [colour, 1.5] }[role];
      made.marker = { ...trace.marker, color: colour, line: edge ? { color: edge[0], width: edge[1] } : {} };
    }
    return made;
  }

  function themed(layout) {
    const axis = { gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, automargin: true, ticks: "outside", tickcolor: css("--line"), showline: true };
    const small = narrow();
    return {
      ...layout,
      xaxis: { ...axis, ...layout.xaxis, nticks: small ? 6 : undefined },
      yaxis: { ...axis, ...layout.yaxis },
      shapes: (layout.shapes ?? []).map((shape) => ({ ...shape, fillcolor: css("--rail"), layer: "below" })),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: css("--ink"), size: small ? 12.5 : 14, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: css("--page"), bordercolor: css("--line"), font: { color: css("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--link") },
      margin: { l: 8, r: 12, t: 28, b: 8 },
    };
  }

  // --- what Plotly is given: {data, layout} a panel

  const shown = (figure) => figure.views[figure.at];
  const named = (view) => `${view.key} ${view.title}`; // what stays the same of a view while a live page grows
  const logarithmic = (figure) => Boolean((figure.logs[named(shown(figure))] ?? shown(figure).log) && shown(figure).ranges?.log);

  function panelsOf(figure) {
    const view = shown(figure);
    return (view.panels ?? [view]).map((panel) => view.axes ? parallel(figure, view) : across(figure, view, panel));
  }

  function across(figure, view, panel) {
    const shownSeries = new Set(panel.data.map((t) => t.meta.series).filter((k) => !hidden.has(k)));
    const banded = panel.data.some((t) => t.meta.role === "band") && shownSeries.size <= 8; // more cannot be told apart
    const layout = themed(panel.layout);
    const ranges = figure.same ? view.ranges : panel.ranges ?? view.ranges;
    if (ranges) {
      const kind = logarithmic(figure) && ranges.log ? "log" : "linear";
      layout.yaxis = { ...layout.yaxis, type: kind, range: ranges[kind] ?? undefined };
      if (kind === "log") layout.yaxis.dtick = decades(ranges.log);
      if (figure.logX) layout.xaxis = { ...layout.xaxis, type: "log", dtick: "D2" };
    }
    return { data: panel.data.map((trace) => dressed(trace, banded)), layout };
  }

  // One tick a decade on a wide range, 1-2-5 on a narrow one; Plotly's own choice labels minor ticks too densely.
  function decades(range) {
    const span = range[1] - range[0];
    return span > 6 ? Math.ceil(span / 6) : span > 1.5 ? 1 : span > 0.5 ? "D2" : undefined;
  }

  // Parallel coordinates: axes side by side, or, on a narrow screen, one below the other.
  function parallel(figure, view) {
    const turned = narrow(), last = view.axes.length - 1, layout = themed(view.layout), rail = view.axes.some((axis) => axis.gone);
    const low = rail ? -0.19 : -0.05;
    const many = view.data.reduce((sum, trace) => sum + trace.x.length / (last + 2), 0); // trials: the more, the fainter
    const kept = (trial) => !figure.keep || figure.keep.has(trial);
    const data = view.data.flatMap((trace) => {
      const whole = dressed(trace, false);
      if (trace.meta.role === "path") whole.opacity = Math.max(0.1, Math.min(opacities.path, 60 / many));
      const parts = figure.keep ? [[true, whole], [false, { ...whole, opacity: opacities.faded, hoverinfo: "skip", hovertemplate: undefined }]] : [[true, whole]];
      return parts.map(([inside, made]) => {
        const chosen = made.customdata.map((trial, i) => i).filter((i) => kept(made.customdata[i]) === inside);
        const pick = (values) => chosen.map((i) => values[i]);
        const [x, y] = [pick(made.x), pick(made.y)];
        return { ...made, x: turned ? y : x, y: turned ? x : y, text: pick(made.text), customdata: pick(made.customdata) };
      }).filter((made) => made.x.length);
    });
    const blank = { visible: false, fixedrange: false, showgrid: false, zeroline: false };
    const along = { ...blank, range: [low, 1.05] };
    const over = { ...blank, range: turned ? [last + 0.45, -0.45] : [-0.02 * last, 1.02 * last] };
    Object.assign(layout, { xaxis: turned ? along : over, yaxis: turned ? over : along, dragmode: "select", selections: [], margin: turned ? { l: 14, r: 14, t: 8, b: 8 } : { l: 64, r: 24, t: 44, b: 8 } });
    layout.shapes = []; layout.annotations = [];
    const at = (place, k) => turned ? { x: place, y: k } : { x: k, y: place };
    const note = (place, k, text, rest) => layout.annotations.push({ ...at(place, k), text, showarrow: false, font: { size: 12, color: css("--ink") }, ...rest });
    const beside = turned ? { yanchor: "top", yshift: -3 } : { xanchor: "right", xshift: -4, bgcolor: css("--page"), borderpad: 0, opacity: 0.85 };
    if (rail) {
      const [from, to] = [{ [turned ? "x0" : "y0"]: -0.185, [turned ? "x1" : "y1"]: -0.035 }, turned ? { yref: "y domain", y0: 0, y1: 1 } : { xref: "x domain", x0: 0, x1: 1 }];
      layout.shapes.push({ type: "rect", ...from, ...to, line: { width: 0 }, fillcolor: css("--rail"), layer: "below" });
    }
    view.axes.forEach((axis, k) => {
      const [a, b] = [at(0, k), at(1, k)];
      layout.shapes.push({ type: "line", x0: a.x, y0: a.y, x1: b.x, y1: b.y, line: { color: css("--quiet"), width: 1.5 }, layer: "above" });
      if (axis.gone) {
        note(-0.11, k, axis.gone, { ...beside, font: { size: 11, color: css("--quiet") } });
      }
      const [name, ...rest] = axis.name.split(" (");
      note(turned ? 0 : 1, k, `<b>${name}</b>${rest.length ? ` (${rest.join(" (")}` : ""}`, turned ? { xanchor: "left", yanchor: "bottom", yshift: 4, bgcolor: css("--page"), opacity: 0.85 } : { yanchor: "bottom", yshift: 8, xanchor: k ? (k === last ? "right" : "center") : "left", xshift: k ? (k === last ? 20 : 0) : -40 });
      for (const [place, text] of axis.ticks) note(place, k, text, beside);
    });
    return { data, layout };
  }

  // The trials, of those kept and shown, that pass through a box.
  function passing(figure, { x: [x0, x1], y: [y0, y1] }) {
    const [low, high] = [Math.min(x0, x1), Math.max(x0, x1)], [bottom, top] = [Math.min(y0, y1), Math.max(y0, y1)];
    return shown(figure).data.filter((trace) => !hidden.has(trace.meta.series)).flatMap((trace) => trace.customdata.filter((trial, i) => {
      const [x, y] = narrow() ? [trace.y[i], trace.x[i]] : [trace.x[i], trace.y[i]];
      return x !== null && x >= low && x <= high && y >= bottom && y <= top && (!figure.keep || figure.keep.has(trial));
    }));
  }

  // --- the reader's zoom: a range an axis and panel, kept while what is shown, and its scales, are the same

  function zoomOf(figure, k) {
    const scale = [named(shown(figure)), logarithmic(figure), figure.logX, figure.same, shown(figure).axes && narrow(), k].join(" ");
    return figure.zoom[scale] ??= {};
  }

  function noteZoom(figure, plot, k, change) {
    const zoom = zoomOf(figure, k), whole = panelsOf(figure)[k].layout;
    for (const axis of ["xaxis", "yaxis"]) {
      const now = plot._fullLayout[axis].range, given = whole[axis].range;
      if (change[`${axis}.autorange`]) zoom[axis] = { autorange: true };
      else if (!Object.keys(change).some((key) => key.startsWith(`${axis}.range`))) continue;
      else zoom[axis] = { range: [...now], autorange: false };
      if (given && now.every((end, i) => Math.abs(end - given[i]) <= 1e-6 * Math.abs(given[1] - given[0]))) delete zoom[axis];
    }
  }

  // --- drawing

  function draw(figure) {
    const view = shown(figure), element = figure.element;
    $("figcaption", element).textContent = view.caption;
    const title = $(".titled", element);
    if (title) title.textContent = view.title;
    const box = $(".log", element);
    if (box) {
      box.disabled = !view.ranges?.log;
      box.checked = logarithmic(figure);
    }
    for (const [selector, name, value] of [[".log-x", "checked", figure.logX], [".same", "checked", figure.same], [".measure", "value", String(figure.at)]]) {
      if ($(selector, element)) $(selector, element)[name] = value;
    }
    const keep = $(".keep", element);
    if (keep) keep.hidden = !figure.keep;
    const plots = all(".plot", element), panels = panelsOf(figure);
    return Promise.all(plots.map((plot, k) => {
      const name = (view.panels ?? [])[k]?.name, head = $("h3", plot.parentElement);
      plot.parentElement.hidden = k >= panels.length; // a measure that only some of the studies have
      if (plot.parentElement.hidden) return null;
      if (head) head.textContent = name;
      const tall = view.axes && narrow() ? 78 * view.axes.length + 30 : view.key === "defaults" ? 90 + 42 * view.rows : 0;
      plot.style.height = tall ? `${tall}px` : "";
      const layout = panels[k].layout;
      for (const [axis, zoom] of Object.entries(zoomOf(figure, k))) layout[axis] = { ...layout[axis], range: undefined, ...zoom };
      const made = Plotly.react(plot, panels[k].data, layout, config);
      if (fresh(plot)) wire(figure, plot, k);
      return made;
    }));
  }

  function redraw() {
    return Promise.all(window.Plotly ? figures.map(draw) : []);
  }

  function wire(figure, plot, k) {
    plot.on("plotly_relayout", (change) => {
      noteZoom(figure, plot, k, change);
      // panels over the same axes move together
      const moved = Object.keys(change).some((key) => /^[xy]axis\.(range|autorange)/.test(key));
      if (!figure.same || !moved || figure.moving) return;
      figure.moving = true;
      Promise.all(all(".plot", figure.element).filter((other) => other !== plot && other.data).map((other) => Plotly.relayout(other, change)))
        .finally(() => { figure.moving = false; });
    });
    plot.on("plotly_selected", (event) => {
      if (!shown(figure).axes || !event?.range) return; // Plotly also reports that an earlier box is gone
      const found = passing(figure, event.range);
      if (!found.length) return;
      figure.keep = new Set(found);
      draw(figure);
    });
    plot.on("plotly_deselect", () => { figure.keep = null; draw(figure); });
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowUp: ["y", 1], ArrowDown: ["y", -1] }[event.key];
      const zoom = { "+": 0.8, "=": 0.8, "-": 1.25, "−": 1.25 }[event.key];
      if (event.target !== plot || event.ctrlKey || event.metaKey || !(step || zoom || event.key === "0")) return;
      event.preventDefault();
      if (event.key === "0") { figure.keep = null; figure.zoom = {}; return draw(figure); }
      const change = {};
      for (const axis of step ? [step[0]] : ["x", "y"]) {
        const full = plot._fullLayout[`${axis}axis`];
        if (full.type === "category") continue;
        const [a, b] = full.range, middle = (a + b) / 2 + (step ? step[1] * 0.1 * (b - a) : 0), half = (b - a) / 2 * (zoom ?? 1);
        change[`${axis}axis.range`] = [middle - half, middle + half];
      }
      Plotly.relayout(plot, change);
    });
  }

  async function opened(element) {
    const text = atob(element.textContent), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i); // many times faster than Uint8Array.from
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // The figures as sent; what the reader chose stays, as far as it is still there.
  function take(data) {
    const before = figures.splice(0);
    for (const [name, views] of Object.entries(data)) {
      const blank = { name, views, at: 0, logs: {}, logX: false, same: null, keep: null, zoom: {} };
      const figure = before.find((other) => other.name === name) ?? blank;
      const at = named(shown(figure)), kept = figure.keep && new Set(trials(figure).filter(([trial]) => figure.keep.has(trial)).map(([, said]) => said));
      figure.views = views;
      figure.at = Math.max(0, views.findIndex((view) => named(view) === at));
      figure.element = $(`[data-figure="${name}"]`);
      figure.same ??= Boolean($(".same", figure.element));
      if (kept) figure.keep = new Set(trials(figure).filter(([, said]) => kept.has(said)).map(([trial]) => trial));
      figures.push(figure);
    }
    figures.forEach(controls);
  }

  // The trials of parallel coordinates: their numbers, which change as a study grows, and what says the same of each.
  const trials = (figure) => shown(figure).data.flatMap((trace) => trace.customdata.map((trial, i) => [trial, `${trace.meta.series} ${trace.text[i]}`]));

  let plotly = null;

  async function unpacked() {
    const script = document.createElement("script");
    script.textContent = await opened($("#plotly"));
    document.head.append(script); // an inline script runs at once
  }

  async function show(sent, newest) {
    const data = JSON.parse(await opened($("#data", sent)));
    if (!newest()) return; // the page is another by now, and its own figures come next
    take(data);
    if (!figures.length) return;
    await (plotly ??= unpacked());
    for (const figure of [...figures]) { // one after the other, so that the first is seen while the last is made
      await draw(figure);
      await new Promise((resolve) => setTimeout(resolve));
    }
    performance.mark("figures");
    root.dataset.drawn = "yes";
    document.body.getBoundingClientRect(); // now the table is laid out too
    performance.mark("drawn"); // bench/report.py reads both marks
  }

  let turn = Promise.resolve(), count = 0; // one after the other, too, what a live page is sent

  function start(sent) {
    const mine = ++count;
    turn = turn.then(() => show(sent, () => mine === count)).catch((error) => {
      all(".plot").forEach((plot) => { plot.innerHTML = "<p>The figure could not be drawn by this browser; the numbers are in the tables.</p>"; });
      console.error(error);
    });
  }

  function controls(figure) {
    const on = (selector, event, action) => {
      const element = $(selector, figure.element);
      if (fresh(element)) element.addEventListener(event, () => { action(element); draw(figure); });
    };
    on(".measure", "change", (choice) => { figure.at = Number(choice.value); });
    on(".log", "change", (box) => { figure.logs[named(shown(figure))] = box.checked; });
    on(".log-x", "change", (box) => { figure.logX = box.checked; });
    on(".same", "change", (box) => { figure.same = box.checked; });
    on(".keep", "click", () => { figure.keep = null; });
    all("[data-save]", figure.element).filter(fresh).forEach((button) => button.addEventListener("click", () => save(figure, button.dataset.save)));
  }

  // --- saving: always on white, with a title and a legend of its own, panels beside each other

  async function save(figure, kind) {
    root.classList.add("light", "paper");
    const panels = panelsOf(figure), view = shown(figure), ink = css("--ink"), page = css("--page");
    root.classList.remove("light", "paper");
    const inLegend = new Set(), data = [], count = panels.length;
    const layout = { ...panels[0].layout, autosize: false, shapes: [], annotations: [], showlegend: true, paper_bgcolor: page, plot_bgcolor: page };
    Object.assign(layout, { title: { text: view.title, font: { color: ink, size: 18 } }, margin: { l: 60, r: 20, t: count > 1 || view.axes ? 100 : 60, b: 64 }, legend: { itemsizing: "trace" } });
    panels.forEach((panel, k) => {
      const n = k ? k + 1 : "", shift = (ref, axis) => ref === undefined ? `${axis}${n}` : ref.replace(axis, `${axis}${n}`);
      layout[`xaxis${n}`] = { ...panel.layout.xaxis, domain: [k / count + (k ? 0.04 : 0), (k + 1) / count - (k < count - 1 ? 0.03 : 0)], anchor: `y${n}` };
      layout[`yaxis${n}`] = { ...panel.layout.yaxis, anchor: `x${n}` };
      for (const part of ["shapes", "annotations"]) {
        for (const one of panel.layout[part] ?? []) layout[part].push({ ...one, xref: shift(one.xref, "x"), yref: shift(one.yref, "y") });
      }
      const title = view.panels?.[k]?.name;
      if (title) layout.annotations.push({ text: `<b>${title.replace(/&/g, "&amp;").replace(/</g, "&lt;")}</b>`, xref: `x${n} domain`, yref: `y${n} domain`, x: 0, y: 1.02, yanchor: "bottom", showarrow: false });
      const first = (role) => panel.data.filter((t) => t.visible && t.meta.role === role);
      for (const trace of ["line", "done", "span", "pick", "path", "chosen", "trial", "broken", "diverged", "stray"].flatMap(first)) {
        if (inLegend.has(trace.meta.series)) continue;
        inLegend.add(trace.meta.series);
        trace.showlegend = true;
      }
      data.push(...panel.data.map((trace) => ({ ...trace, xaxis: `x${n}`, yaxis: `y${n}`, legendgroup: String(trace.meta.series) })));
    });
    const size = { width: Math.max(1000, 560 * count), height: view.rows ? 160 + 42 * view.rows : 600 };
    const url = await Plotly.toImage({ data, layout, config: {} }, { format: kind, ...size, scale: kind === "png" ? 2 : 1 });
    const blob = kind === "svg"
      ? new Blob([decodeURIComponent(url.slice(url.indexOf(",") + 1))], { type: "image/svg+xml" })
      : new Blob([Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (c) => c.charCodeAt(0))], { type: "image/png" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${figure.name}${figure.views.length > 1 ? "-" + view.key.replace(/\W+/g, "-") : ""}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // --- the legend

  function legend() {
    const chips = () => all(".legend [data-series]"), reset = $(".legend .all");
    const change = () => {
      chips().forEach((chip) => chip.setAttribute("aria-pressed", String(!hidden.has(Number(chip.dataset.series)))));
      reset.disabled = hidden.size === 0;
      redraw();
    };
    const alone = (series) => chips().forEach((chip) => {
      const other = Number(chip.dataset.series);
      other === series ? hidden.delete(other) : hidden.add(other);
    });
    chips().filter(fresh).forEach((chip) => {
      const series = Number(chip.dataset.series);
      chip.addEventListener("click", (event) => {
        if (event.shiftKey) alone(series);
        else hidden.has(series) ? hidden.delete(series) : hidden.add(series);
        change();
      });
      chip.addEventListener("dblclick", () => { alone(series); change(); });
    });
    if (fresh(reset)) reset.addEventListener("click", () => { hidden.clear(); change(); chips()[0]?.focus(); });
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
    if (!$("#filter")) return;
    const words = $("#filter").value.toLowerCase().split(/\s+/).filter(Boolean), rows = all("#all-runs tbody tr");
    let count = 0;
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    $("#count").textContent = words.length ? `${count} of ${rows.length} runs` : `${count} runs`;
  }

  // --- start

  function listen() {
    sorting();
    legend();
  }

  // For the live page, when words and tables have become those of the document `sent`: the figures' new data are in it.
  window.thalweg = {
    refresh(sent) {
      listen();
      sort();
      filter();
      start(sent);
    },
  };

  listen();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let small = narrow();
  addEventListener("resize", () => { if (small !== narrow()) { small = narrow(); redraw(); } });
  // paper is white and as wide as its text, whatever the window is; of several studies it shows how each was measured
  const paper = (on) => () => {
    root.classList.toggle("light", on);
    root.classList.toggle("paper", on);
    all("details.study").forEach((details) => {
      if (on) details.dataset.was = details.open ? "open" : "";
      details.open = on || details.dataset.was === "open";
    });
    redraw();
  };
  addEventListener("beforeprint", paper(true));
  addEventListener("afterprint", paper(false));
  start(document);
})();
