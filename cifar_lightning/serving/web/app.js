// The page: images go to v1/predict one by one, so that each gets its own answer or its own refusal.

const EXAMPLES = "airplane automobile bird cat deer dog frog horse ship truck".split(" ");
const AT_ONCE = 4; // requests
const UNSURE = 0.5; // below this probability an answer is marked

const $ = (id) => document.getElementById(id);
const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

let limits = { bytes: Infinity, seconds: 30 };
let size = 0;
let bars = 1;
let running = 0;
const waiting = [];

// ---- the model

async function showModel() {
  const { card, limits: given } = await (await fetch("v1/model")).json();
  limits = given;
  size = card.image_size;
  bars = Math.min(5, card.classes.length);
  const accuracy = card.test_accuracy === null ? "" : `, right for ${percent(card.test_accuracy)} of its test images`;
  $("model").textContent = `The network ${card.arch}, trained on ${card.dataset}${accuracy}.`;
  $("limits").textContent = `Up to ${limits.bytes / 1e6} MB and ${limits.pixels / 1e6} megapixels each.`;
  const named = card.classes.length > 20 ? [...card.classes.slice(0, 20), "…"] : card.classes;
  $("warning").textContent =
    `It knows ${card.classes.length} classes only: ${named.join(", ")}. ` +
    "It answers with one of them whatever it is shown, even a cat in a hat.";
  $("warning").hidden = false;
  const facts = {
    network: card.arch,
    "trained on": card.dataset,
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

function add(file, name) {
  const article = $("result").content.cloneNode(true).querySelector("article");
  article.querySelector("h3").textContent = name;
  const original = article.querySelector(".original");
  original.src = URL.createObjectURL(file);
  original.onload = () => URL.revokeObjectURL(original.src);
  original.onerror = () => (original.closest("figure").hidden = true);
  original.alt = `${name}, the original`;
  $("results").prepend(article);
  $("none").hidden = true;
  $("clear").hidden = false;
  waiting.push(() => classify(file, name, article));
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
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
    article.querySelector(".verdict").textContent = `${answer.label}, ${percent(answer.probability)}`;
    const doubt = article.querySelector(".doubt");
    doubt.hidden = answer.probability >= UNSURE;
    doubt.textContent = "Not sure: no class gets half of the probability. Perhaps it is none of them.";
    article.querySelector(".bars").append(...answer.top.map(makeBar));
    const seen = article.querySelector(".seen");
    seen.src = answer.preview;
    seen.alt = `${name}, as the network sees it`;
    seen.closest("figure").hidden = false;
    seen.closest("figure").querySelector("figcaption").textContent = `what the network sees: ${size} × ${size}`;
    article.classList.add("answered");
    $("status").textContent = `${name}: ${answer.label}, ${percent(answer.probability)}`;
  } catch (error) {
    article.classList.add("wrong");
    article.querySelector(".verdict").textContent = error.message;
    $("status").textContent = `${name}: ${error.message}`;
  }
}

async function ask(file) {
  if (file.size > limits.bytes) {
    const given = (file.size / 1e6).toFixed(1);
    throw new Error(`The file has ${given} MB; this server takes ${limits.bytes / 1e6} MB at most.`);
  }
  for (let attempt = 1; ; attempt += 1) {
    let response;
    try {
      response = await fetch(`v1/predict?top_k=${bars}&preview=true`, {
        method: "POST",
        headers: { "Content-Type": "application/octet-stream" },
        body: file,
      });
    } catch {
      throw new Error("The server can't be reached, or the file can't be read. Is the server still running?");
    }
    if (response.ok) return response.json();
    if (response.status === 503 && attempt < 5) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
      continue;
    }
    const problem = await response.json().catch(() => ({ detail: `the server answered ${response.status}.` }));
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

// ---- where images come from

const addAll = (files) => [...files].forEach((file) => add(file, file.name || "pasted image"));

for (const input of [$("files"), $("capture")]) {
  input.addEventListener("change", () => {
    addAll(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
}
document.addEventListener("paste", (event) => addAll(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragover");
    if (kind === "drop") addAll(event.dataTransfer.files);
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
    add(await (await fetch(`static/examples/${name}.jpg`)).blob(), `example: ${name}`);
  });
  $("examples").append(item);
}

$("camera").addEventListener("click", async () => {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    $("capture").click(); // no camera for pages, as without TLS: phones then start their camera's own program
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
  canvas.toBlob((blob) => blob && add(blob, "from the camera"), "image/jpeg", 0.95);
  $("shutter").close();
});

showModel().catch(() => ($("model").textContent = "The server can't be reached."));
