/** Two drawing backends with the same interface: canvas and SVG. */

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif';
const HATCH_PX = 6;
const HATCH_ALPHA = 0.45;

const measuring = document.createElement("canvas").getContext("2d");
const fontOf = ({ size = 12, weight = 400 }) => `${weight} ${size}px ${FONT}`;

/** Width of a text in pixels. */
export function widthOf(text, font) {
  measuring.font = fontOf(font);
  return measuring.measureText(text).width;
}

/** Shorten a text with an ellipsis to a width in pixels; "" if nothing fits. */
export function truncate(text, maxWidth, font) {
  if (widthOf(text, font) <= maxWidth) return text;
  let kept = text;
  while (kept.length > 0 && widthOf(`${kept}…`, font) > maxWidth) kept = kept.slice(0, -1);
  return kept.trimEnd() === "" ? "" : `${kept.trimEnd()}…`;
}

/** Canvas backend; lengths are CSS pixels. */
export class CanvasPen {
  constructor(context) {
    this.context = context;
  }

  /** @param {{radius?: number, alpha?: number}} [look] */
  rect(x, y, width, height, fill, { radius = 0, alpha = 1 } = {}) {
    this.#with({ fillStyle: fill, globalAlpha: alpha }, () => {
      this.context.beginPath();
      this.context.roundRect(x, y, width, height, radius);
      this.context.fill();
    });
  }

  hatch(x, y, width, height, colour) {
    const { context } = this;
    this.clip(x, y, width, height, () => {
      this.#with({ strokeStyle: colour, lineWidth: 1, globalAlpha: HATCH_ALPHA }, () => {
        context.beginPath();
        const first = Math.floor((x - height) / HATCH_PX) * HATCH_PX;
        for (let left = first; left < x + width; left += HATCH_PX) {
          context.moveTo(left, y + height);
          context.lineTo(left + height, y);
        }
        context.stroke();
      });
    });
  }

  /** @param {[number, number][]} points */
  area(points, fill, { alpha = 1 } = {}) {
    this.#with({ fillStyle: fill, globalAlpha: alpha }, () => {
      this.#path(points);
      this.context.fill();
    });
  }

  line(points, stroke, { width = 1, dash = [], alpha = 1 } = {}) {
    this.#with({ strokeStyle: stroke, lineWidth: width, globalAlpha: alpha, lineJoin: "round" }, () => {
      this.context.setLineDash(dash);
      this.#path(points);
      this.context.stroke();
    });
  }

  /** @param {{size?: number, weight?: number, fill: string, align?: "left"|"center"|"right"}} look; y is the middle */
  text(text, x, y, { fill, align = "left", ...look }) {
    this.#with({ fillStyle: fill, font: fontOf(look), textAlign: align, textBaseline: "alphabetic" }, () => {
      this.context.fillText(text, x, y + 0.36 * (look.size ?? 12));
    });
  }

  clip(x, y, width, height, draw) {
    this.#with({}, () => {
      this.context.beginPath();
      this.context.rect(x, y, width, height);
      this.context.clip();
      draw();
    });
  }

  group(_name, draw) {
    draw();
  }

  #path(points) {
    this.context.beginPath();
    for (const [x, y] of points) this.context.lineTo(x, y);
  }

  #with(settings, draw) {
    this.context.save();
    Object.assign(this.context, settings);
    draw();
    this.context.restore();
  }
}

const escaped = (text) => text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
// Replaces characters that XML does not allow; file names may contain them.
const printable = (text) => text.replace(/[\u0000-\u001f\u007f\ufffe\uffff]/g, " ").toWellFormed();
const rounded = (value) => String(Math.round(value * 100) / 100);

/** SVG backend; uses attributes only, no style sheets, scripts or external resources. */
export class SvgPen {
  #parts = [];
  #clips = 0;
  #hatches = new Map();

  #add(tag, attributes, content = null) {
    const written = Object.entries(attributes)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => ` ${name}="${typeof value === "number" ? rounded(value) : escaped(printable(value))}"`)
      .join("");
    this.#parts.push(content === null ? `<${tag}${written}/>` : `<${tag}${written}>${content}</${tag}>`);
  }

  rect(x, y, width, height, fill, { radius, alpha } = {}) {
    this.#add("rect", { x, y, width: Math.max(0, width), height, rx: radius, fill, "fill-opacity": alpha });
  }

  hatch(x, y, width, height, colour) {
    if (!this.#hatches.has(colour)) this.#hatches.set(colour, `mien-hatch-${this.#hatches.size + 1}`);
    this.rect(x, y, width, height, `url(#${this.#hatches.get(colour)})`);
  }

  area(points, fill, { alpha } = {}) {
    this.#add("path", { d: `${pathOf(points)}Z`, fill, "fill-opacity": alpha });
  }

  line(points, stroke, { width = 1, dash = [], alpha } = {}) {
    this.#add("path", {
      d: pathOf(points), fill: "none", stroke, "stroke-width": width, "stroke-linejoin": "round",
      "stroke-dasharray": dash.length > 0 ? dash.join(" ") : undefined, "stroke-opacity": alpha,
    });
  }

  text(text, x, y, { size = 12, weight = 400, fill, align = "left" }) {
    const anchor = { left: undefined, center: "middle", right: "end" }[align];
    const attributes = { x, y: y + 0.36 * size, "font-size": size, "font-weight": weight, fill, "text-anchor": anchor };
    this.#add("text", attributes, escaped(printable(text)));
  }

  clip(x, y, width, height, draw) {
    this.#clips += 1;
    const id = `mien-clip-${this.#clips}`;
    this.#parts.push(`<clipPath id="${id}"><rect x="${rounded(x)}" y="${rounded(y)}" width="${rounded(width)}" height="${rounded(height)}"/></clipPath>`);
    this.#parts.push(`<g clip-path="url(#${id})">`);
    draw();
    this.#parts.push("</g>");
  }

  /** Draw into a named group. */
  group(name, draw) {
    this.#parts.push(`<g data-name="${escaped(printable(name))}">`);
    draw();
    this.#parts.push("</g>");
  }

  /** Draw with an offset. */
  move(x, y, draw) {
    this.#parts.push(`<g transform="translate(${rounded(x)} ${rounded(y)})">`);
    draw();
    this.#parts.push("</g>");
  }

  /** The SVG document; title and description are for screen readers. */
  toString(width, height, { title, description }) {
    const hatches = [...this.#hatches].map(([colour, id]) => (
      `<pattern id="${id}" width="${HATCH_PX}" height="${HATCH_PX}" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">`
      + `<path d="M0 0V${HATCH_PX}" stroke="${escaped(colour)}" stroke-width="1" stroke-opacity="${1.6 * HATCH_ALPHA}"/></pattern>`
    ));
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${rounded(width)}" height="${rounded(height)}" viewBox="0 0 ${rounded(width)} ${rounded(height)}"`
      + ` role="img" aria-labelledby="mien-title mien-description" font-family="${escaped(FONT)}">\n`
      + `<title id="mien-title">${escaped(printable(title))}</title><desc id="mien-description">${escaped(printable(description))}</desc>\n`
      + `<defs>${hatches.join("")}</defs>\n${this.#parts.join("\n")}\n</svg>\n`
    );
  }
}

function pathOf(points) {
  return points.map(([x, y], index) => `${index === 0 ? "M" : "L"}${rounded(x)} ${rounded(y)}`).join("");
}
