// What a script adds to pages that work without it: a button that copies, and a picture that follows.
"use strict";

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

const REFRESH_MS = 5000;

async function refresh(place) {
  if (!document.hidden) {
    try {
      const answer = await fetch(place.dataset.refresh, { redirect: "error" });
      const picture = new DOMParser().parseFromString(await answer.text(), "image/svg+xml").documentElement;
      if (answer.ok && picture.nodeName === "svg") place.replaceChildren(document.importNode(picture, true));
    } catch {
      // The server is away: the last picture stays.
    }
  }
  setTimeout(refresh, REFRESH_MS, place);
}

for (const place of document.querySelectorAll("[data-refresh]")) setTimeout(refresh, REFRESH_MS, place);
