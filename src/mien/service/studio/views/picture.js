import { h } from "../components/dom.js";
export function createView({ strings }) {
  return { id: "picture", title: strings.picture.title, element: h("div", null, h("h1", null, strings.picture.heading)), show() {}, hide() {} };
}
