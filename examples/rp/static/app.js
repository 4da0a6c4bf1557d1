// The two things of this application that need a script: the countdown, and a call
// of its API. Without it the page says when the sign-in ends, and works.
"use strict";

(() => {
  const countdown = document.getElementById("countdown");
  if (!countdown) return;

  // link offers to sign in, and to come back to this page.
  const link = (text) => {
    const a = document.createElement("a");
    a.href = "/auth/signin?return=" + encodeURIComponent(location.pathname + location.search);
    a.textContent = text;
    return a;
  };
  const signedOut = (where, message) => {
    where.replaceChildren((message || "You were signed out.") + " ", link("Sign in again"));
  };

  // ask learns what time is left. It is no activity: it moves nothing.
  let ends = 0;
  const ask = async (method) => {
    const answer = await fetch("/auth/session", { method, headers: { Accept: "application/json" } });
    if (answer.status === 503) return; // nobody is signed out for that
    const session = await answer.json();
    ends = session.signed_in && session.expires_in !== undefined ? Date.now() + session.expires_in * 1000 : 0;
    if (!session.signed_in) signedOut(countdown, session.message || session.error_description);
    else if (!ends) countdown.textContent = "You are signed in.";
  };
  const quietly = (promise) => promise.catch(() => {}); // the network is down: the next time

  const tick = () => {
    if (!ends) return;
    const left = Math.round((ends - Date.now()) / 1000);
    if (left <= 0) {
      ends = 0;
      quietly(ask("GET"));
      return;
    }
    const two = (n) => String(n).padStart(2, "0");
    const hours = Math.floor(left / 3600);
    countdown.textContent = "If you do nothing, you are signed out in " +
      (hours ? hours + ":" : "") + two(Math.floor(left / 60) % 60) + ":" + two(left % 60) + ".";
  };
  setInterval(tick, 1000);
  setInterval(() => quietly(ask("GET")), 15000); // another tab may have been busy
  document.addEventListener("visibilitychange", () => quietly(ask("GET"))); // timers of a hidden tab are late
  quietly(ask("GET"));

  document.getElementById("stayform").addEventListener("submit", (event) => {
    event.preventDefault();
    quietly(ask("POST"));
  });

  const result = document.getElementById("result");
  document.getElementById("call").addEventListener("click", async () => {
    try {
      const answer = await fetch("/api/count", { headers: { Accept: "application/json" } });
      const body = await answer.json();
      if (answer.status === 401) signedOut(result, body.error_description);
      else if (!answer.ok) result.textContent = "It does not work at the moment. Try again.";
      else result.textContent = body.notes + (body.notes === 1 ? " note" : " notes") + " at " + body.time;
    } catch {
      result.textContent = "The network does not work at the moment. Try again.";
    }
  });
})();
