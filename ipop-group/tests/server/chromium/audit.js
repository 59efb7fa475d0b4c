// What is wrong with a page for who cannot see it, or not well: names of controls, headings, contrast (WCAG 2.2, level AA),
// size of what is pressed, content that is wider than the window. A list of sentences; empty if nothing is.
const wrong = [];
const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const told = (element) => element.outerHTML.slice(0, 120);

if (!document.documentElement.lang) wrong.push("the page says no language");
if (!document.title.trim()) wrong.push("the page has no title");
if (document.querySelectorAll("h1").length !== 1) wrong.push("there is not one first heading");
if (!document.querySelector("main")) wrong.push("there is no main part");

const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
for (const id of ids.filter((id, at) => ids.indexOf(id) !== at)) wrong.push(`two elements are ${id}`);

let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1) wrong.push(`a heading is left out before ${told(heading)}`);
  level = next;
}

const name = (element) =>
  [
    element.getAttribute("aria-label"),
    ...[...(element.labels ?? [])].map((label) => label.textContent),
    element.tagName === "INPUT" || element.tagName === "SELECT" ? "" : element.textContent,
  ]
    .filter(Boolean)
    .join("")
    .trim();
const controls = [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea")].filter(shown);
for (const control of controls) {
  if (!name(control)) wrong.push(`no name: ${told(control)}`);
  const { width, height } = control.getBoundingClientRect();
  const isInText = control.tagName === "A" || ["checkbox", "radio"].includes(control.type);
  if (!isInText && (width < 24 || height < 24)) wrong.push(`${width} by ${height} is small: ${told(control)}`);
}
for (const table of document.querySelectorAll("table")) {
  if (!table.querySelector("th[scope]")) wrong.push(`no heading of a column or row: ${told(table)}`);
}

const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
const over = (above, below) => above.slice(0, 3).map((part, at) => part * above[3] + below[at] * (1 - above[3]));
function background(element) {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
  const base = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  return layers.reverse().reduce((below, layer) => over(layer, below), base);
}
function luminance(colour) {
  const [r, g, b] = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const looked = new Set();
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  const isRead = texts.currentNode.textContent.trim() && !element.closest("svg, option, script") && shown(element);
  if (!isRead || looked.has(element) || element.closest(".hidden, .skip")) continue;
  looked.add(element);
  const line = document.createRange();
  line.selectNodeContents(texts.currentNode);
  for (const box of line.getClientRects()) {
    const isCovered = (control) => {
      const other = control.getBoundingClientRect();
      const width = Math.min(box.right, other.right) - Math.max(box.left, other.left);
      const height = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
      return !control.contains(element) && width > 2 && height > 2;
    };
    const over = controls.find(isCovered);
    if (over) wrong.push(`${told(element)} is covered by ${told(over)}`);
  }
  const style = getComputedStyle(element);
  const below = background(element);
  const [light, dark] = [luminance(over(rgba(style.color), below)), luminance(below)].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const contrast = (light + 0.05) / (dark + 0.05);
  if (contrast < (isLarge ? 3 : 4.5)) wrong.push(`contrast ${contrast.toFixed(2)}: ${told(element)}`);
}

const { scrollWidth, clientWidth } = document.documentElement;
if (scrollWidth > clientWidth) wrong.push(`${scrollWidth} wide in a window of ${clientWidth}`);
return wrong;
