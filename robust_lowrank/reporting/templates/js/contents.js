// Contents: a link into what is folded opens it.
function openAround(hash) {
  const target = hash.length > 1 ? document.getElementById(decodeURIComponent(hash.slice(1))) : null;
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  return target;
}

document.querySelector(".contents").addEventListener("click", (event) => openAround(event.target.closest("a")?.hash ?? ""));
window.addEventListener("hashchange", () => openAround(location.hash)?.scrollIntoView());
openAround(location.hash)?.scrollIntoView();

// Where the reader is: the last heading above the upper third of the window.
const links = [...document.querySelectorAll(".contents a")];
function markPlace() {
  const passed = links.filter((link) => document.getElementById(link.hash.slice(1))?.getBoundingClientRect().top < innerHeight / 3);
  for (const link of links) {
    if (link === passed.at(-1)) link.setAttribute("aria-current", "location");
    else link.removeAttribute("aria-current");
  }
}
window.addEventListener("scroll", markPlace, { passive: true });
markPlace();
