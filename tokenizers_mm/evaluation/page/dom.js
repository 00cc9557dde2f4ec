"use strict";
// Elements are made node by node and text is set as text: nothing from the data is ever parsed as HTML.

const $ = (id) => document.getElementById(id);
const island = (id) => JSON.parse($(id).textContent);
const DASH = "–";

function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const swatch = (style) => h("i", { class: `swatch ${style}`, "aria-hidden": "true" });
const number = (value, digits) => (value == null ? DASH : value.toFixed(digits));
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}.${Math.floor((s * 10) % 10)}`;
const withUnit = (metric) => metric.name + (metric.unit ? `, ${metric.unit}` : "");
const direction = (metric) => (metric.better === "higher" ? "↑" : "↓");

// A tooltip that the pointer and the keyboard reach alike.
function tip(element, text) {
  const show = () => {
    const box = element.getBoundingClientRect(), bubble = $("tip");
    bubble.textContent = text;
    bubble.hidden = false;
    const left = box.left + box.width / 2 - bubble.offsetWidth / 2;
    bubble.style.left = `${scrollX + Math.max(8, Math.min(left, document.documentElement.clientWidth - bubble.offsetWidth - 8))}px`;
    bubble.style.top = `${scrollY + Math.max(8, box.top - bubble.offsetHeight - 8)}px`;
  };
  const hide = () => ($("tip").hidden = true);
  for (const [event, action] of [["pointerenter", show], ["focus", show], ["pointerleave", hide], ["blur", hide]])
    element.addEventListener(event, action);
  return element;
}
