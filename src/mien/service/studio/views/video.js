/** Video files: read frame by frame, looked through with a timeline, saved as tables and figures. */

import { fill, h, isFocusLost } from "../components/dom.js";
import { icon } from "../components/icons.js";
import { takeFiles } from "../live/drop.js";
import { openVideo } from "../live/frames.js";
import { VideoDesk } from "../live/video_desk.js";
import { format } from "../strings.js";
import { whereRead } from "../components/where.js";

const SENDABLE = ["format", "no-picture", "damaged"]; // what the server may read where this browser cannot

/** @param {object} context the page's */
export function createView(context) {
  const text = context.strings.video;
  const element = h("div.video.stack");
  const input = h("input", { type: "file", accept: "video/*,.mkv,.mov,.m4v", hidden: true, onchange: choose });
  let desk = null;
  let opening = null; // the file that was asked for last
  let visible = false;

  function choose() {
    const [file] = input.files;
    input.value = "";
    if (file) open(file);
  }

  async function open(file) {
    const hadFocus = element.contains(document.activeElement);
    desk?.close();
    desk = null;
    opening = file;
    fill(element, input, h("p.panel", { role: "status" }, format(text.opening, { name: file.name })));
    try {
      const video = await openVideo(file);
      if (file === opening) place(file, video);
      else video.close();
    } catch (error) {
      if (file === opening) fill(element, input, invitation({ file, code: error.code in text.errors ? error.code : "damaged" }));
    }
    if (hadFocus && isFocusLost()) element.querySelector(".button.primary")?.focus();
  }

  function place(file, video) {
    const hadFocus = element.contains(document.activeElement);
    desk = new VideoDesk(context, file, video, () => input.click());
    fill(element, input, desk.element);
    if (visible) desk.show();
    if (hadFocus) element.querySelector(".button.primary").focus();
  }

  /** What the view says without a video: how to begin, or what is wrong with a file and how to mend it. */
  function invitation(wrong = null) {
    const { host } = context;
    const { title, text: words } = wrong ? text.errors[wrong.code] : { title: text.heading, text: text.lead };
    const maySend = SENDABLE.includes(wrong?.code);
    return h(
      "div.drop-place",
      wrong && { role: "alert" },
      icon(wrong ? "warn" : "video"),
      h("h1", null, wrong ? format(title, { name: wrong.file.name }) : title),
      h("p", null, words),
      h("button.button.primary", { type: "button", onclick: () => input.click() }, icon("upload"), wrong ? text.other : text.choose),
      maySend && h("button.button", { type: "button", onclick: () => place(wrong.file, null) }, icon("server"), format(text.onServer, { host })),
      maySend ? h("p.hint", null, text.onServerHint) : [h("p.hint", null, text.formats), whereRead(context.settings, text)],
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
