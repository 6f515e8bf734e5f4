/** Video view: opens a file and shows its workspace. */

import { fill, h, isFocusLost } from "../components/dom.js";
import { icon } from "../components/icons.js";
import { acceptFiles } from "../live/drop.js";
import { openVideo } from "../live/frames.js";
import { VideoDesk } from "../live/video_desk.js";
import { format } from "../strings.js";
import { createWhereLine } from "../components/where.js";

const SERVER_MAY_READ = ["format", "no-picture", "damaged"]; // error codes

/** @param {object} context */
export function createView(context) {
  const text = context.strings.video;
  const element = h("div.video.stack");
  const input = h("input", { type: "file", accept: "video/*,.mkv,.mov,.m4v", hidden: true, onchange: choose });
  let desk = null;
  let opening = null; // the file opened last
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

  /** Content without a video: instructions, or what is wrong with a file. */
  function invitation(problem = null) {
    const { host } = context;
    const { title, text: words } = problem ? text.errors[problem.code] : { title: text.heading, text: text.lead };
    const maySend = SERVER_MAY_READ.includes(problem?.code);
    return h(
      "div.drop-place",
      problem && { role: "alert" },
      icon(problem ? "warn" : "video"),
      h("h1", null, problem ? format(title, { name: problem.file.name }) : title),
      h("p", null, words),
      h("button.button.primary", { type: "button", onclick: () => input.click() }, icon("upload"), problem ? text.other : text.choose),
      maySend && h("button.button", { type: "button", onclick: () => place(problem.file, null) }, icon("server"), format(text.onServer, { host })),
      maySend ? h("p.hint", null, text.onServerHint) : [h("p.hint", null, text.formats), createWhereLine(context.settings, text)],
    );
  }

  acceptFiles(element, ([file]) => open(file));
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
