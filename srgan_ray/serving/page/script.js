"use strict";

const element = (id) => document.getElementById(id);
let photograph = null; // the File that is shown
let request = null; // the XMLHttpRequest on its way
let urls = []; // object URLs of what is shown

function describeEndpoint(about) {
  element("about").textContent =
    `Four times the size, by ${about.generator}. Drop a photograph and compare it with its restoration.`;
  element("limits").textContent =
    `JPEG, PNG, WebP or TIFF, up to ${about.max_mb} MB and ${about.max_megapixels} megapixels`;
  element("fidelity-setting").hidden = !about.fidelity;
}

function take(files) {
  if (!files.length) return;
  photograph = files[0];
  upscale();
}

function upscale() {
  if (request) request.abort();
  const query = new URLSearchParams({ format: element("format").value });
  if (!element("fidelity-setting").hidden) query.set("fidelity", element("fidelity").value);
  const file = photograph;
  const running = (request = new XMLHttpRequest());
  running.open("POST", `upscale?${query}`);
  running.responseType = "blob";
  running.setRequestHeader("Content-Type", file.type.startsWith("image/") ? file.type : "image/unknown");
  const clock = showProgress(running);
  running.onload = () => (running.status === 200 ? showResult(file, running) : showProblem(running));
  running.onerror = () => tell("The endpoint does not answer.");
  running.onloadend = () => {
    clearInterval(clock);
    if (request === running) request = null;
    element("progress").hidden = request === null;
    element("again").disabled = false;
  };
  running.send(file);
}

function showProgress(running) {
  const bar = element("bar");
  tell("");
  element("progress").hidden = false;
  element("state").textContent = "Sending";
  element("seconds").textContent = "";
  bar.value = 0;
  running.upload.onprogress = (event) => (bar.value = event.loaded / event.total);
  const started = performance.now();
  let sent = false;
  running.upload.onload = () => {
    sent = true;
    element("state").textContent = "Upscaling";
    bar.removeAttribute("value");
  };
  return setInterval(() => {
    const seconds = Math.round((performance.now() - started) / 1000);
    if (sent) element("seconds").textContent = `${seconds} s`;
  }, 200);
}

function showResult(file, answer) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [URL.createObjectURL(file), URL.createObjectURL(answer.response)];
  element("before").src = urls[0];
  element("after").src = urls[1];
  const format = answer.getResponseHeader("Content-Type").replace("image/", "");
  const download = element("download");
  download.href = urls[1];
  download.download = `${file.name.replace(/\.[^.]*$/, "")}_x4.${format}`;
  showFigures(answer);
  element("result").hidden = false;
}

function showFigures(answer) {
  const header = (name) => answer.getResponseHeader(name);
  const figures = {
    generator: decodeURIComponent(header("X-Generator")),
    precision: header("X-Precision"),
    "seconds at work": header("X-Seconds"),
    "consistency with what was sent": `${header("X-Consistency-dB")} dB`,
    size: `${(answer.response.size / 1e6).toFixed(2)} MB`,
  };
  const tiles = Object.entries(figures).map(([name, value]) => {
    const tile = document.createElement("div");
    const figure = document.createElement("b");
    tile.className = "tile";
    figure.textContent = value;
    tile.append(figure, name);
    return tile;
  });
  element("figures").replaceChildren(...tiles);
}

async function showProblem(answer) {
  const status = `${answer.status} ${answer.statusText}`;
  try {
    tell(JSON.parse(await answer.response.text()).detail);
  } catch {
    tell(`The endpoint answered ${status}.`); // a proxy's own answer is no problem+json
  }
}

function tell(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}

function setFull() {
  const { naturalWidth } = element("after");
  element("compare").style.width = element("full").checked ? `${naturalWidth / devicePixelRatio}px` : "";
  element("compare").classList.toggle("full", element("full").checked);
}

element("file").onchange = (event) => take(event.target.files);
element("form").onsubmit = (event) => {
  event.preventDefault();
  if (photograph) upscale();
};
element("fidelity").oninput = () => {
  element("fidelity-value").textContent = Number(element("fidelity").value).toFixed(2);
};
element("stop").onclick = () => {
  if (request) request.abort();
  element("again").focus(); // the button that had it is hidden now
};
element("split").oninput = () => element("compare").style.setProperty("--split", `${element("split").value}%`);
element("full").onchange = setFull;
element("after").onload = setFull;
element("before").onload = element("before").onerror = (event) => {
  const unshown = event.type === "error";
  element("compare").classList.toggle("alone", unshown);
  element("unshown").hidden = !unshown;
};
document.onpaste = (event) => take(event.clipboardData.files);
document.ondragover = (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
};
document.ondragleave = () => element("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  take(event.dataTransfer.files);
};
fetch("healthz")
  .then((answer) => answer.json())
  .then(describeEndpoint)
  .catch(() => tell("The endpoint does not answer."));
