/** Video files: read frame by frame, looked through with a timeline, saved as tables and figures. */

import { fill, h } from "../components/dom.js";
import { icon } from "../components/icons.js";
import { takeFiles } from "../live/drop.js";
import { openVideo } from "../live/frames.js";
import { VideoDesk } from "../live/video_desk.js";
import { format } from "../strings.js";

/** @param {object} context the page's */
export function createView(context) {
  const text = context.strings.video;
  const element = h("div.video.stack");
  const input = h("input", { type: "file", accept: "video/*,.mkv,.mov,.m4v", hidden: true, onchange: choose });
  let desk = null;
  let visible = false;

  function choose() {
    const [file] = input.files;
    input.value = "";
    if (file) open(file);
  }

  async function open(file) {
    desk?.close();
    desk = null;
    fill(element, input, h("p.panel", { role: "status" }, format(text.opening, { name: file.name })));
    try {
      desk = new VideoDesk(context, file, await openVideo(file), () => input.click());
      fill(element, input, desk.element);
      if (visible) desk.show();
    } catch (error) {
      fill(element, input, invitation(text.errors[error.code] ?? text.errors.damaged, file));
    }
  }

  function invitation(wrong = null, file = null) {
    const { settings, host } = context;
    const isServer = settings.get().side === "server";
    return h(
      "div.drop-place",
      wrong && { role: "alert" },
      icon(wrong ? "warn" : "video"),
      h("h1", null, wrong ? format(wrong.title, { name: file.name }) : text.heading),
      h("p", null, wrong ? wrong.text : text.lead),
      h("button.button.primary", { type: "button", onclick: () => input.click() }, icon("upload"), wrong ? text.other : text.choose),
      h("p.hint", null, text.formats),
      h("p.hint", null, isServer ? format(text.privateServer, { host }) : text.privateBrowser),
    );
  }

  takeFiles(element, ([file]) => open(file));
  fill(element, input, invitation());
  return {
    id: "video",
    title: text.title,
    element,
    show() {
      visible = true;
      desk?.show();
    },
    hide() {
      visible = false;
      desk?.hide();
    },
  };
}
