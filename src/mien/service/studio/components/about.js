/** Dialog on what the numbers mean and what they must not be used for. */

import { strings } from "../strings.js";
import { openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";

const LICENCES = new URL("../licences.txt", import.meta.url);

export function openAbout() {
  const words = strings.about;
  openDialog({
    title: words.title,
    className: "wide about",
    content: [
      h("p.about-lead", null, words.lead),
      h(
        "div.about-sections",
        null,
        words.sections.map(({ title, text }) => h("section", null, h("h3", null, title), h("p", null, text))),
      ),
      h(
        "div.message.warn",
        null,
        icon("warn"),
        h("h3", null, words.forbidden),
        h("ul", null, words.forbiddenList.map((text) => h("li", null, text))),
      ),
      h("div.message", null, icon("check"), h("h3", null, words.good), h("p", null, words.goodText), h("p", null, words.write)),
      h("p.hint", null, words.sources),
      h("p.small", null, h("a", { href: LICENCES.href, target: "_blank", rel: "noopener" }, words.licences)),
    ],
  });
}
