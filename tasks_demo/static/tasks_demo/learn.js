// Learn: judges guesses, and plays a recorded history step by step. Without it, every answer can be opened by hand.
"use strict";
(() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const words = ["never", "once", "twice"];

  function judge(question) {
    const chosen = question.querySelector("input:checked");
    const said = question.querySelector(".judged");
    const right = chosen.value === question.dataset.answer;
    said.textContent = (right ? "Right: " : "No: ") + (words[question.dataset.answer] || question.dataset.answer + " times") + ".";
    said.className = "judged " + (right ? "right" : "wrong");
    const answer = question.parentElement.querySelector(".answer");
    if (answer) answer.open = true;
  }

  function score(quiz) {
    const questions = [...quiz.querySelectorAll(".question")].filter(each => each.querySelector("input:checked"));
    const right = questions.filter(each => each.querySelector("input:checked").value === each.dataset.answer);
    quiz.querySelector(".score").textContent = right.length + " of " + questions.length + " right.";
  }

  function player(answer) {
    const rows = [...answer.querySelectorAll(".steps tbody tr")];
    const svg = answer.querySelector("svg");
    const marks = [...svg.querySelectorAll("g.mark")];
    const curtain = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const play = answer.querySelector("[data-do=play]");
    let at = rows.length - 1;
    let timer = 0;
    curtain.setAttribute("class", "curtain");
    curtain.setAttribute("y", "0");
    curtain.setAttribute("height", svg.getAttribute("height"));
    svg.insertBefore(curtain, marks[0] || null);

    function show(step) {
      at = Math.max(0, Math.min(step, rows.length - 1));
      const last = at === rows.length - 1;
      const x = last ? Number(svg.getAttribute("width")) : Number(rows[at].dataset.x) + 1;
      curtain.setAttribute("x", String(x));
      curtain.setAttribute("width", String(Number(svg.getAttribute("width")) - x));
      for (const mark of marks) mark.classList.toggle("later", Number(mark.querySelector("circle").getAttribute("cx")) > x);
      rows.forEach((row, number) => {
        row.classList.toggle("later", number > at);
        row.classList.toggle("now", number === at && !last);
      });
      const [, event, , code] = [...rows[at].cells].map(cell => cell.textContent.trim());
      answer.querySelector(".step").textContent = "Step " + (at + 1) + " of " + rows.length + ": " + event + (code && "  " + code);
      answer.querySelector(".starts").textContent = rows[at].cells[4].textContent;
      answer.querySelector(".charges").textContent = rows[at].cells[5].textContent;
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    }

    answer.querySelector(".controls").hidden = false;
    play.hidden = still.matches;
    answer.querySelector(".controls").addEventListener("click", event => {
      const what = event.target.dataset.do;
      if (!what) return;
      if (what !== "play" || timer) stop();
      else {
        if (at === rows.length - 1) show(0);
        play.textContent = "Stop";
        timer = setInterval(() => {
          show(at + 1);
          if (at === rows.length - 1) stop();
        }, 900);
        return;
      }
      if (what === "first") show(0);
      if (what === "back") show(at - 1);
      if (what === "next") show(at + 1);
    });
    show(at);
  }

  function marked() {
    for (const link of document.querySelectorAll(".picker a, .others a")) {
      if (link.hash !== location.hash) link.removeAttribute("aria-current");
      else {
        link.setAttribute("aria-current", "true");
        link.classList.add("seen");
      }
    }
  }

  document.addEventListener("change", event => {
    const question = event.target.closest(".question");
    if (!question) return;
    judge(question);
    const quiz = question.closest(".quiz");
    if (quiz) score(quiz);
  });
  document.querySelectorAll(".case .answer").forEach(player);
  const focus = () => {
    const found = location.hash.startsWith("#case-") && document.getElementById(location.hash.slice(1));
    if (found) found.focus();
  };
  addEventListener("hashchange", focus);
  focus();
  addEventListener("hashchange", marked);
  marked();
})();
