// Keeps what is marked data-live="SECONDS" fresh: the page is fetched again, and such elements, found by their id,
// take over what is new. One in which somebody types, or has ticked or opened something, is left alone.
"use strict";
(() => {
  const live = () => [...document.querySelectorAll("[data-live][id]")];
  const focused = (element) => element.contains(document.activeElement) && document.activeElement !== element
    && document.activeElement.matches("input, select, textarea, summary, button");
  const busy = (element) => focused(element) || element.querySelector("details[open], input:checked") !== null;
  const seconds = Math.min(...live().map((element) => Number(element.dataset.live) || 5));
  if (!Number.isFinite(seconds)) return;
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1" }, credentials: "same-origin" });
      if (answer.redirected || answer.status === 401) { location.reload(); return; }
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const element of live()) {
        const found = fresh.getElementById(element.id);
        if (found && !busy(element) && found.innerHTML !== element.innerHTML) element.innerHTML = found.innerHTML;
      }
      document.documentElement.classList.remove("stale");
    } catch { document.documentElement.classList.add("stale"); }
  };
  setInterval(refresh, seconds * 1000);
})();
