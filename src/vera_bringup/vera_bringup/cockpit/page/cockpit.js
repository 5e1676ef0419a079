// The page of the cockpit. It shows what it is told over one websocket, and asks for what is pressed.
// Messages: text is JSON with a `type`; binary is a JPEG behind a head (see cockpit/pictures.py).

const $ = (id) => document.getElementById(id);
const SMALL = 160; // px: a camera this small is shown with its pixels
const KEPT = 12; // plans
const TOAST_MS = 6000;
const COLOURS = { residual: '#50beff', plan_age: '#ffb84d', planning: '#b18cff', translating: '#3ddc97' };

let hello = null;
let status = null;
let socket = null;
let clockShift = 0; // s: the server's clock minus ours
let plans = new Map(); // name -> {told, dream, happened: Map, flow, jacobian, verdict}
let points = {}; // curve -> [[s, value]]
let shown = null; // name of the plan that is looked at
let frame = 0;
let following = true;
let playing = true;
let overlay = 'none'; // none, flow, or the index of a channel

// Talking ---------------------------------------------------------------------------------------

function connect() {
  socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/live`);
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => {
    plans.forEach(forget);
    plans = new Map();
    points = {};
    shown = null;
    $('lost').hidden = true;
    watch();
  };
  socket.onmessage = ({ data }) => (typeof data === 'string' ? hear(JSON.parse(data)) : see(data));
  socket.onclose = () => {
    $('lost').hidden = false;
    status = null;
    showState();
    setTimeout(connect, 1000);
  };
}

function ask(action, more = {}) {
  if (socket.readyState !== WebSocket.OPEN) {
    toast(`${action}: no connection`, false);
    return;
  }
  socket.send(JSON.stringify({ action, ...more }));
}

function watch() {
  if (socket.readyState === WebSocket.OPEN) ask('watch', { on: !document.hidden });
}

function hear(told) {
  const kinds = {
    hello: () => greet(told),
    status: () => hearStatus(told),
    goals: () => showGoals(told.goals),
    curves: () => hearPoints(told.points),
    plan: () => hearPlan(told),
    verdict: () => hearVerdict(told),
    answer: () => hearAnswer(told),
  };
  kinds[told.type]?.();
}

async function see(data) {
  const length = new DataView(data).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const image = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: 'image/jpeg' }));
  if (head.kind === 'camera') {
    showCamera(head.name, image);
    return;
  }
  const plan = plans.get(head.plan);
  if (!plan) {
    image.close();
    return;
  }
  if (head.kind === 'happened') plan.happened.set(head.frame, image);
  else plan[head.kind] = image;
  if (head.kind === 'dream') choose();
  else if (following) choose();
  if (head.plan === shown) draw();
}

function hearAnswer({ good, message, action }) {
  // A goal that was taken is shown in the list of goals; nobody needs to be told twice.
  if (!good || !['goal', 'stop'].includes(action)) toast(good ? `${action}: ${message}` : message, good);
}

function toast(text, good) {
  const line = document.createElement('div');
  line.className = good ? 'toast' : 'toast bad';
  line.textContent = text;
  $('toasts').append(line);
  setTimeout(() => line.remove(), TOAST_MS);
}

// State and goals -------------------------------------------------------------------------------

function greet(told) {
  hello = told;
  document.title = `${told.embodiment} · VERA cockpit`;
  $('embodiment').textContent = told.namespace === 'vera' ? told.embodiment : `${told.embodiment} /${told.namespace}`;
  $('embodiment').title = told.description;
  $('new-scene').hidden = !told.simulated;
  const wide = told.canvas[0] > 2 * told.canvas[1];
  $('pair').classList.toggle('wide', wide);
  $('strip').classList.toggle('wide', wide);
  $('cameras').replaceChildren(...told.cameras.map((camera) => {
    const figure = document.createElement('figure');
    const canvas = document.createElement('canvas');
    const caption = document.createElement('figcaption');
    [canvas.width, canvas.height] = [camera.width, camera.height];
    canvas.id = `camera-${camera.name}`;
    canvas.classList.toggle('pixels', camera.width <= SMALL);
    caption.append(camera.name, Object.assign(document.createElement('i'), { id: `rate-${camera.name}` }));
    figure.append(canvas, caption);
    return figure;
  }));
  const names = { none: 'picture', flow: 'flow' };
  told.channels.forEach((channel, k) => { names[k] = `J ${channel}`; });
  $('overlays').replaceChildren(...Object.entries(names).sort(([a], [b]) => rank(a) - rank(b)).map(([key, name]) => {
    const chip = document.createElement('button');
    chip.textContent = name;
    chip.dataset.overlay = key;
    chip.onclick = () => { overlay = key; draw(); };
    return chip;
  }));
}

const rank = (key) => ({ none: -2, flow: -1 }[key] ?? Number(key));

function hearStatus(told) {
  status = told;
  clockShift = told.now - performance.now() / 1000;
  Object.entries(told.complaints ?? {}).forEach(([what, why]) => toast(`${what}: ${why}`, false));
  showState();
}

function showState() {
  const state = status?.state ?? 'SILENT';
  $('state').dataset.state = state;
  $('state-name').textContent = status ? state : 'NO CONNECTION';
  $('state-meaning').textContent = status?.meaning ?? '';
  $('state-reason').textContent = status?.reason ?? '';
  $('state').title = status?.reason ?? '';
  const stopped = state === 'STOPPED' || state === 'ESTOP';
  $('reset').disabled = !stopped;
  $('enable').hidden = state !== 'IDLE';
  $('home').disabled = state !== 'READY';
  const goal = status?.goal;
  $('cancel').hidden = goal?.status !== 'ACTIVE';
  const words = goal ? { ACTIVE: 'pursues', SUCCEEDED: 'reached', CANCELLED: 'cancelled', ABORTED: 'gave up' }[goal.status] : '';
  $('goal-now').textContent = goal && words ? `${words}: ${goal.prompt}` : '';
}

function showGoals(goals) {
  const list = goals.map((goal) => {
    const item = document.createElement('li');
    item.dataset.status = goal.status;
    item.title = 'put into the text box';
    const mark = Object.assign(document.createElement('span'), { className: 'mark' });
    const prompt = Object.assign(document.createElement('span'), { textContent: goal.prompt });
    const time = Object.assign(document.createElement('time'), { textContent: goal.seconds === null ? '' : `${goal.seconds} s` });
    const small = document.createElement('small');
    small.textContent = goal.status.toLowerCase() + (goal.message ? `: ${goal.message}` : '');
    item.append(mark, prompt, time, small);
    item.onclick = () => { $('goal').value = goal.prompt; $('goal').focus(); };
    return item;
  });
  if (!list.length) list.push(Object.assign(document.createElement('li'), { className: 'none', textContent: 'No goal yet. Say what to do, above; Enter sends it.' }));
  $('goals').replaceChildren(...list);
  const past = [...new Set(goals.map((goal) => goal.prompt))];
  $('past').replaceChildren(...past.map((prompt) => Object.assign(document.createElement('option'), { value: prompt })));
}

// Cameras ---------------------------------------------------------------------------------------

const seen = {}; // camera -> times of its last pictures

function showCamera(name, image) {
  const canvas = $(`camera-${name}`);
  if (canvas) {
    if (canvas.width !== image.width) [canvas.width, canvas.height] = [image.width, image.height];
    canvas.getContext('2d').drawImage(image, 0, 0);
    (seen[name] ??= []).push(performance.now());
  }
  image.close();
}

function showRates() {
  const now = performance.now();
  (hello?.cameras ?? []).forEach(({ name }) => {
    seen[name] = (seen[name] ?? []).filter((t) => now - t < 2000);
    $(`rate-${name}`).textContent = seen[name].length ? `${(seen[name].length / 2).toFixed(0)} Hz` : 'no picture';
  });
}

// Dream and reality -----------------------------------------------------------------------------

function hearPlan(told) {
  const old = plans.get(told.plan);
  plans.set(told.plan, { happened: new Map(), verdict: early.get(told.plan), ...old, told });
  early.delete(told.plan);
  for (const name of [...plans.keys()].slice(0, -KEPT)) {
    if (name === shown && !following) continue;
    forget(plans.get(name));
    plans.delete(name);
  }
}

const early = new Map(); // verdicts that came before their plan

function hearVerdict(told) {
  const plan = plans.get(told.plan);
  if (plan) plan.verdict = told;
  else early.set(told.plan, told);
  if (told.plan === shown) note();
}

function forget(plan) {
  [plan.dream, plan.flow, plan.jacobian, ...plan.happened.values()].forEach((image) => image?.close());
}

// Following: the newest plan of which everything that was to be executed has been seen to happen.
function choose() {
  if (!following && plans.has(shown)) return;
  const ready = [...plans.entries()].filter(([, plan]) => plan.dream);
  const lived = ready.filter(([, plan]) => plan.happened.has(Math.min(plan.told.committed, plan.told.frames - 1)));
  const next = (lived.at(-1) ?? ready.at(-1))?.[0] ?? null;
  if (next !== shown) select(next);
}

function select(name) {
  shown = name;
  const plan = plans.get(name);
  if (!plan) return;
  $('frame').max = plan.told.frames - 1;
  if (following) frame = 0;
  frame = Math.min(frame, plan.told.frames - 1);
  const strip = Array.from({ length: plan.told.frames }, (_, k) => {
    const button = document.createElement('button');
    button.append(document.createElement('canvas'));
    button.classList.toggle('beyond', k > plan.told.committed);
    button.title = k > plan.told.committed ? 'imagined, not meant to be executed' : '';
    button.setAttribute('aria-label', `frame ${k}`);
    button.onclick = () => { pause(); frame = k; draw(); };
    return button;
  });
  $('strip').replaceChildren(...strip);
  draw();
}

function paint(canvas, image, k, count) {
  const height = image.height / count;
  if (canvas.width !== image.width || canvas.height !== height) {
    [canvas.width, canvas.height] = [image.width, height];
    canvas.classList.toggle('pixels', hello && Math.min(...hello.canvas) <= SMALL);
  }
  canvas.getContext('2d').drawImage(image, 0, k * height, image.width, height, 0, 0, image.width, height);
}

function layOver(canvas, image, k, count) {
  const context = canvas.getContext('2d');
  const height = image.height / count;
  context.save();
  // Still is white in both, so multiplying leaves what does not move as it is.
  context.globalCompositeOperation = 'multiply';
  context.globalAlpha = Number($('strength').value);
  context.drawImage(image, 0, k * height, image.width, height, 0, 0, canvas.width, canvas.height);
  context.restore();
}

function draw() {
  const plan = plans.get(shown);
  if (!plan?.dream || !hello) return;
  const { frames, seconds, committed } = plan.told;
  paint($('imagined'), plan.dream, frame, frames);
  const height = plan.dream.height / frames;
  if (overlay === 'flow' && plan.flow && frame > 0) {
    const count = Math.round(plan.flow.height / height);
    if (frame - 1 < count) layOver($('imagined'), plan.flow, frame - 1, count);
  } else if (overlay !== 'none' && overlay !== 'flow' && plan.jacobian) {
    layOver($('imagined'), plan.jacobian, Number(overlay), hello.channels.length);
  }
  const real = plan.happened.get(frame);
  const canvas = $('happened');
  if (real) paint(canvas, real, 0, 1);
  else {
    [canvas.width, canvas.height] = [plan.dream.width, height];
  }
  $('happened-name').textContent = real ? 'happened' : 'happened: not seen (yet)';
  $('frame').value = frame;
  $('frame-name').textContent = `${frame} of ${frames - 1} · ${seconds[frame] >= 0 ? '+' : ''}${seconds[frame].toFixed(1)} s`;
  [...$('strip').children].forEach((button, k) => {
    button.classList.toggle('on', k === frame);
    paint(button.firstChild, plan.dream, k, frames);
  });
  document.querySelectorAll('[data-overlay]').forEach((chip) => chip.classList.toggle('on', chip.dataset.overlay === overlay));
  document.querySelectorAll('[data-overlay]').forEach((chip) => chip.classList.add('toggle'));
  const names = [...plans.keys()];
  $('plan-name').textContent = `plan ${plan.told.plan_seq}`;
  $('older').disabled = names.indexOf(shown) <= 0;
  $('newer').disabled = names.indexOf(shown) >= names.length - 1;
  note();
}

function note() {
  const plan = plans.get(shown);
  if (!plan) return;
  const { prompt, planner, committed, pending } = plan.told;
  const parts = [`“${prompt}” · ${planner} · ${committed} executed`];
  if (pending) parts.push(`${pending} of the plan before`);
  $('plan-note').replaceChildren(parts.join(' · '));
  if (plan.verdict && (!plan.verdict.accepted || plan.verdict.reason)) {
    const words = plan.verdict.accepted ? ' · doubted: ' : ' · refused: ';
    $('plan-note').append(words, Object.assign(document.createElement('b'), { textContent: plan.verdict.reason }));
  }
}

function pause() {
  playing = false;
  $('play').classList.remove('on');
}

function stay() {
  following = false;
  $('follow').classList.remove('on');
}

function step(by) {
  const names = [...plans.keys()].filter((name) => plans.get(name).dream);
  const next = names[names.indexOf(shown) + by];
  stay();
  if (next) select(next);
}

let played = 0;
function play(now) {
  const plan = plans.get(shown);
  if (playing && plan?.dream) {
    const { seconds, frames } = plan.told;
    const wait = frame === frames - 1 ? 0.7 : Math.max(0.1, seconds[frame + 1] - seconds[frame]);
    if (now - played > wait * 1000) {
      played = now;
      frame = (frame + 1) % frames;
      draw();
    }
  }
  requestAnimationFrame(play);
}

// Curves ----------------------------------------------------------------------------------------

function hearPoints(told) {
  told.forEach(([curve, t, value]) => {
    const line = (points[curve] ??= []);
    // A page that opens is told all, and then once more what was new to those before it.
    if (!line.length || t > line.at(-1)[0]) line.push([t, value]);
  });
}

function plot(canvas, output, curves, unit) {
  const context = canvas.getContext('2d');
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const span = (hello?.seconds ?? 120) / 2;
  const now = performance.now() / 1000 + clockShift;
  const drawn = curves.map((curve) => (points[curve] ?? []).filter(([t]) => now - t < span));
  const most = nice(Math.max(1e-9, ...drawn.flat().map(([, value]) => value)));
  const [left, right, top, bottom] = [40, 4, 8, 20];
  const x = (t) => left + (width - left - right) * (1 - (now - t) / span);
  const y = (value) => top + (height - top - bottom) * (1 - value / most);
  context.font = '11px system-ui, sans-serif';
  context.lineWidth = 1;
  for (let i = 0; i <= 4; i += 2) {
    const value = (most * i) / 4;
    context.strokeStyle = '#222a3a';
    context.beginPath();
    context.moveTo(left, y(value));
    context.lineTo(width - right, y(value));
    context.stroke();
    context.fillStyle = '#66728a';
    context.textAlign = 'right';
    context.fillText(number(value), left - 6, y(value) + 4);
  }
  context.textAlign = 'left';
  context.fillText(`${-span} s`, left, height - 5);
  context.textAlign = 'right';
  context.fillText('now', width - right, height - 5);
  drawn.forEach((line, i) => {
    const colour = COLOURS[curves[i]];
    context.strokeStyle = colour;
    context.fillStyle = colour;
    context.lineWidth = 1.8;
    context.lineJoin = 'round';
    context.beginPath();
    let last = null;
    line.forEach(([t, value]) => {
      if (last === null || t - last > 3) context.moveTo(x(t), y(value));
      else context.lineTo(x(t), y(value));
      last = t;
    });
    context.stroke();
    line.slice(-1).forEach(([t, value]) => {
      context.beginPath();
      context.arc(x(t), y(value), 3, 0, 7);
      context.fill();
    });
  });
  output.replaceChildren(...curves.flatMap((curve, i) => {
    const value = drawn[i].at(-1)?.[1];
    if (value === undefined) return [];
    const text = `${curves.length > 1 ? `${hello?.curves[curve][0] ?? curve} ` : ''}${number(value)}${unit} `;
    return [Object.assign(document.createElement('span'), { textContent: text, style: `color:${COLOURS[curve]}` })];
  }));
}

const number = (value) => (value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value === 0 ? '0' : value.toFixed(2));

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((k) => k * power).find((k) => k >= value);
}

function showCurves() {
  if (document.hidden) return;
  const oldest = performance.now() / 1000 + clockShift - (hello?.seconds ?? 120);
  Object.values(points).forEach((line) => { while (line.length && line[0][0] < oldest) line.shift(); });
  plot($('residual'), $('residual-now'), ['residual'], '');
  plot($('age'), $('age-now'), ['plan_age'], ' s');
  plot($('latency'), $('latency-now'), ['planning', 'translating'], ' s');
}

// What is pressed -------------------------------------------------------------------------------

document.querySelectorAll('[data-action]').forEach((button) => {
  button.onclick = () => ask(button.dataset.action);
});
$('goal-form').onsubmit = (event) => {
  event.preventDefault();
  const prompt = $('goal').value.trim();
  if (!prompt) {
    toast('the goal is empty; say what to do', false);
    return;
  }
  ask('goal', { prompt });
  $('goal').select();
};
$('new-scene').onclick = () => ask('new_scene', { seed: Math.floor(Math.random() * 2 ** 31) });
$('frame').oninput = () => { pause(); stay(); frame = Number($('frame').value); draw(); };
$('strength').oninput = draw;
$('older').onclick = () => step(-1);
$('newer').onclick = () => step(1);
$('play').onclick = () => { playing = $('play').classList.toggle('on'); };
$('follow').onclick = () => {
  following = $('follow').classList.toggle('on');
  choose();
};
document.addEventListener('visibilitychange', watch);

if (document.createElement('canvas').getContext('webgl2')) $('scene').src = 'viser/?darkMode';
else [$('scene').hidden, $('flat').hidden] = [true, false];
connect();
requestAnimationFrame(play);
setInterval(showCurves, 500);
setInterval(showRates, 1000);
