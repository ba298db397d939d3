// The script of the page. It sends images to v1/predict one by one, so each gets its own result or its own error.

const EXAMPLES = "airplane automobile bird cat deer dog frog horse ship truck".split(" ");
const MAX_REQUESTS = 4; // at once
const UNSURE = 0.5; // Results below this probability are marked, unless the server has a limit of its own.

const $ = (id) => document.getElementById(id);
const percent = (probability) => `${(100 * probability).toFixed(1)}%`;

let limits = { bytes: Infinity };
let minConfidence = 0;
let size = 0;
let topK = 1;
let running = 0;
let newest = null; // The first article of the images that were added last.
const waiting = [];

// ---- the model

async function showModel() {
  const { card, limits: given, min_confidence } = await (await fetch("v1/model")).json();
  limits = given;
  minConfidence = min_confidence;
  size = card.image_size;
  topK = Math.min(5, card.classes.length);
  const drawn = card.dataset === "synthetic";
  const dataset = drawn ? "synthetic drawings" : card.dataset;
  const accuracy = card.test_accuracy === null ? "" : `, ${percent(card.test_accuracy)} accuracy on its test images`;
  $("model").textContent = `Model: ${card.arch}, trained on ${dataset}${accuracy}.`;
  $("limits").textContent = `Up to ${limits.bytes / 1e6} MB and ${limits.pixels / 1e6} megapixels per image.`;
  const named = card.classes.length > 20 ? [...card.classes.slice(0, 20), "…"] : card.classes;
  $("warning").textContent =
    `The model knows only ${card.classes.length} classes: ${named.join(", ")}. ` +
    (minConfidence
      ? `Where the most probable one has less than ${percent(minConfidence)}, the answer is "not sure".`
      : "It assigns one of them to every image, even to an image of something else.");
  $("drawings").hidden = !drawn;
  $("warning").hidden = false;
  const facts = {
    network: card.arch,
    "data set": dataset,
    classes: card.classes.join(", "),
    "test accuracy": card.test_accuracy === null ? "not measured" : percent(card.test_accuracy),
    "image size": `${size} × ${size}`,
    "checkpoint (SHA-256)": card.checkpoint_sha256,
    ...card.versions,
  };
  for (const [name, value] of Object.entries(facts)) {
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    $("card").querySelector("dl").append(term, description);
  }
  $("card").hidden = false;
}

// ---- one image

// Adds images above the earlier ones, in the given order.
function addAll(images) {
  const articles = images.map(({ file, name }) => makeArticle(file, name));
  if (!articles.length) return;
  $("results").prepend(...articles);
  $("none").hidden = true;
  $("clear").hidden = false;
  newest = articles[0];
  showResults();
  images.forEach(({ file, name }, index) => waiting.push(() => classify(file, name, articles[index])));
  next();
}

function makeArticle(file, name) {
  const article = $("result").content.cloneNode(true).querySelector("article");
  article.querySelector("h3").textContent = name;
  const original = article.querySelector(".original");
  original.src = URL.createObjectURL(file);
  original.onload = () => URL.revokeObjectURL(original.src);
  original.onerror = () => (original.closest("figure").hidden = true);
  original.alt = `${name}, original`;
  return article;
}

// Scrolls to the results: on a phone they are below the fold.
function showResults() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("results-title").scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}

function next() {
  while (running < MAX_REQUESTS && waiting.length) {
    running += 1;
    waiting.shift()().finally(() => {
      running -= 1;
      next();
    });
  }
}

async function classify(file, name, article) {
  try {
    const answer = await ask(file);
    const guess = `${answer.label}, ${percent(answer.probability)}`;
    const verdict = answer.sure ? guess : "not sure";
    article.querySelector(".verdict").textContent = verdict;
    const doubt = article.querySelector(".doubt");
    doubt.hidden = answer.sure && (minConfidence > 0 || answer.probability >= UNSURE);
    doubt.textContent = answer.sure
      ? "Uncertain: no class has a probability of 50% or more. The image may show none of them."
      : `The most probable class is ${guess}, below ${percent(minConfidence)}. The image may show none of the classes.`;
    article.querySelector(".bars").append(...answer.top.map(makeBar));
    const seen = article.querySelector(".seen");
    seen.src = answer.preview;
    seen.alt = `${name}, as the network sees it`;
    seen.closest("figure").hidden = false;
    seen.closest("figure").querySelector("figcaption").textContent = `network input, ${size}×${size}`;
    article.classList.add("answered");
    $("status").textContent = `${name}: ${verdict}`;
  } catch (error) {
    article.classList.add("failed");
    article.querySelector(".verdict").textContent = error.message;
    $("status").textContent = `${name}: ${error.message}`;
  }
  if (article === newest) {
    newest = null;
    showResults(); // Again, because the article has grown.
  }
}

async function ask(file) {
  if (file.size > limits.bytes) {
    const megabytes = (file.size / 1e6).toFixed(1);
    throw new Error(`The file has ${megabytes} MB, more than this server's limit of ${limits.bytes / 1e6} MB.`);
  }
  for (let attempt = 1; ; attempt += 1) {
    let response;
    try {
      response = await fetch(`v1/predict?top_k=${topK}&preview=true`, {
        method: "POST",
        headers: { "Content-Type": "application/octet-stream" },
        body: file,
      });
    } catch {
      throw new Error("The server can't be reached or the file can't be read. Is the server still running?");
    }
    if (response.ok) return response.json();
    if (response.status === 503 && attempt < 5) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
      continue;
    }
    const problem = await response.json().catch(() => ({ detail: `the server answered with status ${response.status}.` }));
    throw new Error(problem.detail[0].toUpperCase() + problem.detail.slice(1));
  }
}

function makeBar({ label, probability }) {
  const item = document.createElement("li");
  const [name, share, track, bar] = ["span", "span", "div", "div"].map((tag) => document.createElement(tag));
  name.textContent = label;
  share.textContent = percent(probability);
  track.className = "track";
  bar.style.width = `${100 * probability}%`;
  track.append(bar);
  item.append(name, share, track);
  return item;
}

// ---- sources of images

const addFiles = (files) => addAll([...files].map((file) => ({ file, name: file.name || "pasted image" })));

for (const input of [$("files"), $("capture")]) {
  input.addEventListener("change", () => {
    addFiles(input.files);
    input.value = ""; // The same file can be chosen again.
  });
}
document.addEventListener("paste", (event) => addFiles(event.clipboardData.files));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") addFiles(event.dataTransfer.files);
  });
}

$("clear").addEventListener("click", () => {
  waiting.length = 0;
  $("results").replaceChildren();
  $("none").hidden = false;
  $("clear").hidden = true;
  $("files").focus();
});

for (const name of EXAMPLES) {
  const item = document.createElement("li");
  item.innerHTML = `<button type="button"><img src="static/examples/${name}.jpg" alt="example: ${name}" width="64" height="64"></button>`;
  item.firstChild.addEventListener("click", async () => {
    addAll([{ file: await (await fetch(`static/examples/${name}.jpg`)).blob(), name: `example: ${name}` }]);
  });
  $("examples").append(item);
}

$("camera").addEventListener("click", async () => {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    $("capture").click(); // Without TLS, pages can't use the camera; phones open their camera app instead.
    return;
  }
  $("video").srcObject = stream;
  $("shutter").showModal();
  $("shutter").addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()), { once: true });
});
$("cancel").addEventListener("click", () => $("shutter").close());
$("snap").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [$("video").videoWidth, $("video").videoHeight];
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  canvas.toBlob((blob) => blob && addAll([{ file: blob, name: "camera image" }]), "image/jpeg", 0.95);
  $("shutter").close();
});

showModel().catch(() => ($("model").textContent = "The server can't be reached. Is it still running?"));
