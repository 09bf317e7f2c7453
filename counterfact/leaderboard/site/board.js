// Which page is shown, and in which theme.
"use strict";
function route() {
  const [page, ...rest] = location.hash
    .replace(/^#\/?/, "")
    .split("/")
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return "";
      }
    });
  if (page === "run") withRuns([rest[0]], runPage);
  else if (page === "compare") withRuns(rest.slice(0, 2), comparePage);
  else if (page === "editor") listPage("editor", rest[0]);
  else if (page === "model") listPage("model", rest[0]);
  else if (page !== "main") tablePage();
}
const theme = document.getElementById("theme");
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  theme.textContent = name === "dark" ? "light" : "dark";
  theme.setAttribute("aria-label", `${theme.textContent} theme`);
}
function remembered(name) {
  try {
    if (name) localStorage.setItem("theme", name);
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}
setTheme(
  remembered() === "dark" || remembered() === "light"
    ? remembered()
    : matchMedia("(prefers-color-scheme: dark)").matches
      ? "dark"
      : "light",
);
theme.addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  remembered(document.documentElement.dataset.theme);
});
