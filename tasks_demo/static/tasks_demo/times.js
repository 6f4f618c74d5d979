// Shows each <time> in the zone of the browser, in the server's format. Its title is the same in UTC.
"use strict";
(() => {
  const SHAPE = /^(\d{4}-)?(\d\d-\d\d )?\d\d:\d\d(:\d\d)?(\.\d+)?( \S+)?$/;
  const two = number => String(number).padStart(2, "0");

  function local(text, at) {
    const shape = SHAPE.exec(text);
    if (!shape || Number.isNaN(at.getTime())) return "";
    const [, year, day, seconds, fraction, zone] = shape;
    return (year ? at.getFullYear() + "-" : "") + (day ? two(at.getMonth() + 1) + "-" + two(at.getDate()) + " " : "") +
      two(at.getHours()) + ":" + two(at.getMinutes()) + (seconds ? ":" + two(at.getSeconds()) : "") + (fraction ?? "") +
      (zone ? " " + new Intl.DateTimeFormat("en-GB", {timeZoneName: "short"}).formatToParts(at).at(-1).value : "");
  }

  function convert() {
    for (const element of document.querySelectorAll("time[datetime]:not([data-local])")) {
      const said = element.getAttribute("datetime");
      if (!/(Z|[+-]\d\d:\d\d)$/.test(said)) continue; // without USE_TZ nobody knows its zone
      const at = new Date(said), text = local(element.textContent.trim(), at);
      if (!text) continue;
      element.title = at.toISOString().slice(0, 19).replace("T", " ") + " UTC";
      element.dataset.local = "";
      element.textContent = text;
    }
  }

  convert();
  for (const element of document.querySelectorAll("[data-zone]")) {
    element.textContent = "Times: " + Intl.DateTimeFormat().resolvedOptions().timeZone;
  }
  document.addEventListener("htmx:afterSwap", convert, true); // first: the charts read their table after this
})();
