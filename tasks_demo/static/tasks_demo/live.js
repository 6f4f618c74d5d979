// Polls the live parts of a page: [data-live] with hx-get and hx-trigger="live". The chooser's interval is kept in localStorage.
// Stops while the page is hidden and when the server says that it is done. Never asks twice at a time.
"use strict";
(() => {
  const KEY = "tasks_demo.live";
  const CHOICES = ["1", "2", "10", "0"];
  let timer;

  function kept() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is forbidden: the choice lasts as long as the page
    }
  }

  function keep(seconds) {
    try {
      localStorage.setItem(KEY, seconds);
    } catch {
      // see kept()
    }
  }

  const parts = () => [...document.querySelectorAll("[data-live]:not([data-live-done])")];
  const say = text => document.querySelectorAll("[data-live-status]").forEach(element => {
    if (element.textContent !== text) element.textContent = text;
  });

  function ask() {
    if (document.hidden) return;
    for (const part of parts()) {
      if (part.dataset.liveAsked) continue;
      part.dataset.liveAsked = "1";
      htmx.trigger(part, "live");
    }
  }

  function run(seconds) {
    clearInterval(timer);
    document.documentElement.dataset.liveEvery = seconds;
    if (Number(seconds)) timer = setInterval(ask, Number(seconds) * 1000);
    else say("");
  }

  document.addEventListener("htmx:configRequest", event => {
    const part = event.target.closest("[data-live]");
    if (part && part.dataset.liveMark) event.detail.headers["Live-Mark"] = part.dataset.liveMark;
  });

  document.addEventListener("htmx:beforeSwap", event => {
    const part = event.target.closest("[data-live]");
    if (!part || event.detail.requestConfig.elt !== part) return;
    // A login page, say, is not the part that was asked for.
    if (!event.detail.xhr.getResponseHeader("Live-Mark")) event.detail.shouldSwap = false;
  });

  document.addEventListener("htmx:afterRequest", event => {
    const part = event.detail.requestConfig?.elt;
    if (!part || !part.matches("[data-live]")) return;
    delete part.dataset.liveAsked;
    const xhr = event.detail.xhr;
    const mark = event.detail.successful && xhr.getResponseHeader("Live-Mark");
    if (!mark) {
      say(xhr.status === 0 ? "No answer: trying again" : "Not updated: reload the page");
      return;
    }
    say("");
    part.dataset.liveMark = mark;
    if (xhr.getResponseHeader("Live-Done")) part.dataset.liveDone = "1";
    if (!parts().length) run("0");
  });

  document.addEventListener("DOMContentLoaded", () => {
    const chooser = document.querySelector("[data-live-chooser]");
    if (!chooser) return;
    const seconds = CHOICES.includes(kept()) ? kept() : chooser.value;
    chooser.value = seconds;
    chooser.addEventListener("change", () => {
      keep(chooser.value);
      run(chooser.value);
      ask();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.documentElement.dataset.liveEvery !== "0") ask();
    });
    chooser.closest("[data-live-choice]").hidden = false;
    run(seconds);
  });
})();
