// The live page: asks now and then how far the study is, and changes what has changed and nothing else, so that the reader's zoom,
// filter, order, selection and place stay as they are. It stands before the page's own script: what it notes is what was sent.
"use strict";
(() => {
  const skipped = ["SCRIPT", "NOSCRIPT"];
  const children = (node) => [...node.childNodes].filter((child) => !skipped.includes(child.nodeName));
  const shown = new WeakMap(); // a node of the page as it was sent last -> the node of the document that shows it

  function pair(sent, node) {
    shown.set(sent, node);
    const nodes = children(node);
    children(sent).forEach((child, k) => pair(child, nodes[k]));
  }

  // Bring the document from what was sent before to what is sent now. What the reader or the page's script did to it is not in either.
  function patch(before, now) {
    const node = shown.get(before);
    shown.set(now, node);
    if (now.nodeType !== Node.ELEMENT_NODE) {
      if (before.data !== now.data) node.data = now.data;
      return;
    }
    for (const name of new Set([...before.getAttributeNames(), ...now.getAttributeNames()])) {
      const value = now.getAttribute(name);
      if (before.getAttribute(name) === value) continue;
      value === null ? node.removeAttribute(name) : node.setAttribute(name, value);
    }
    const left = children(before);
    let previous = null;
    for (const child of children(now)) {
      const at = child.id ? left.findIndex((other) => other.id === child.id) : left[0]?.nodeName === child.nodeName && !left[0].id ? 0 : -1;
      let here;
      if (at < 0) {
        here = document.importNode(child, true);
        pair(child, here);
        node.insertBefore(here, previous ? previous.nextSibling : node.firstChild);
      } else {
        left.splice(0, at).forEach((gone) => shown.get(gone).remove());
        const same = left.shift();
        here = shown.get(same);
        patch(same, child);
      }
      previous = here;
    }
    left.forEach((gone) => shown.get(gone).remove());
  }

  // --- the line at the foot

  const foot = document.createElement("div"), state = document.createElement("strong"), line = document.createElement("span");
  foot.id = "live";
  state.setAttribute("role", "status");
  foot.style.cssText = "position:fixed;inset:auto 0 0 0;z-index:9;padding:.45rem 1rem;display:flex;gap:.8rem;flex-wrap:wrap;font-size:.92rem;" +
    "background:var(--soft,Canvas);color:var(--ink,CanvasText);border-top:1px solid var(--line,GrayText)";
  foot.append(state, line);

  function say(kind, text) {
    document.documentElement.dataset.live = kind;
    const ended = kind !== "running";
    if (state.textContent !== (ended ? text : "Running")) state.textContent = ended ? text : "Running";
    line.textContent = ended ? "" : text;
  }

  // --- asking

  const page = Math.random().toString(36).slice(2);
  let version = "", last = document.body.cloneNode(true);
  pair(last, document.body);
  document.body.append(foot);
  document.body.style.paddingBottom = "5rem";

  function show(text) {
    if (document.documentElement.dataset.starting) { // there was no report yet to be brought up to date
      location.reload();
      return;
    }
    const sent = new DOMParser().parseFromString(text, "text/html");
    patch(last, sent.body);
    last = sent.body;
    window.thalweg.refresh(sent);
  }

  async function ask() {
    let again = 1;
    try {
      const answer = await fetch(`/update?page=${page}&version=${encodeURIComponent(version)}`, { cache: "no-store" });
      const news = await answer.json();
      if (news.page !== null && news.version) show(news.page);
      version = news.version;
      say(news.state, news.text);
      if (news.state !== "running") return;
      if (version) again = 0; // the server holds its answers back
    } catch (error) {
      if (!(error instanceof TypeError)) console.error(error);
      say("silent", "The run does not answer: its process is gone, or busy. What is shown is what it said last.");
    }
    again ? setTimeout(ask, 1000 * again) : ask();
  }

  say("running", "");
  ask();
})();
