/** Toast notifications and announcements for screen readers. */

import { strings } from "../strings.js";
import { fill, h } from "./dom.js";
import { icon } from "./icons.js";

const INFO_MS = 6000;

/**
 * @returns {{element: HTMLElement, announce: (text: string) => void, notify: (kind: "info"|"error", text: string) => void}}
 */
export function createNotices() {
  const live = h("div.visually-hidden", { role: "status", "aria-live": "polite" });
  const list = h("div.notices", { role: "region", "aria-label": strings.notices.region });

  function announce(text) {
    fill(live, h("p", null, text)); // a new node is announced even if the text is the same
  }

  function notify(kind, text) {
    const notice = h(
      "div.notice",
      { class: kind, role: kind === "error" ? "alert" : "status" },
      icon(kind === "error" ? "warn" : "check"),
      h("p.grow", null, text),
      h("button.button.quiet.round", { type: "button", "aria-label": strings.notices.dismiss, onClick: () => notice.remove() }, icon("close")),
    );
    list.append(notice);
    while (list.children.length > 3) list.firstElementChild.remove();
    if (kind !== "error") setTimeout(() => notice.remove(), INFO_MS);
  }

  return { element: h("div", null, live, list), announce, notify };
}
