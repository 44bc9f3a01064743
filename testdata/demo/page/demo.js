import { watch } from './long_poll.js'

const at = id => document.getElementById(id)

// The ways in which a client may ask: each gives the values, and tells the errors. One
// more way is one more entry.
const ways = {
	'with long_poll': (base, told) => watch(`${base}/api/order.json`, told),
	'every second, without long_poll': (base, told) => everySecond(`${base}/plain/api/order.json`, told),
	'with long_poll, as events': (base, told) => listen(`${base}/api/order.json`, told),
}

async function* listen(url, { onError, signal }) {
	const heard = []
	let wake, source, last, ended
	const hear = value => { heard.push(value); wake?.() }
	const mark = event => { if (url.startsWith(location.origin)) note('event', event.type) }
	const open = () => {
		source = new EventSource(url)
		// who has the state is not told it again when it comes back
		source.onopen = () => { asked++; ended = false; if (last) hear(last) }
		source.onmessage = event => { mark(event); hear(last = JSON.parse(event.data)) }
		source.addEventListener('status', event => {
			mark(event)
			last = undefined
			onError(Object.assign(new Error('a status'), { answer: JSON.parse(event.data) }))
		})
		source.onerror = () => {
			// every stream ends some time; what does not begin again is an error
			if (ended || source.readyState === EventSource.CLOSED) onError(new Error('no stream'))
			ended = true
			// it comes back by itself, but for what is no stream (a bound, a missing page)
			if (source.readyState === EventSource.CLOSED && !signal.aborted) setTimeout(open, 5000)
		}
	}
	open()
	signal.addEventListener('abort', () => { source.close(); wake?.() })
	while (!signal.aborted) {
		if (heard.length) yield heard.shift()
		else await new Promise(resolve => { wake = resolve })
	}
}

async function* everySecond(url, { onError, signal }) {
	while (!signal.aborted) {
		let value
		try {
			const answer = await fetch(url, { signal, cache: 'no-store' })
			if (!answer.ok) throw Object.assign(new Error(answer.statusText), { answer })
			value = await answer.json()
		} catch (error) { if (!signal.aborted) onError(error) }
		if (value) yield value
		await new Promise(again => setTimeout(again, 1000))
	}
}

// Each request of a client goes through here to be counted. Without cookies, for those
// that other programs on localhost have set would have this browser share with nobody.
const ask = window.fetch
let asked = 0
window.fetch = async (request, options) => {
	const url = request.url ?? request
	if (!url.includes('/order.json')) return ask(request, options)
	asked++
	const answer = await ask(request, { ...options, credentials: 'omit' })
	if (url.startsWith(location.origin)) note(answer.status, answer.headers.get('Long-Poll'))
	return answer
}

// client is one that asks, at a base URL, with a dot to show how it fares.
class client {
	constructor(base, first) {
		this.base = base
		this.first = first
		this.dot = at('clients').appendChild(document.createElement('li'))
		this.start()
	}
	async start() {
		this.end?.abort()
		const { signal } = this.end = new AbortController()
		this.is('unknown')
		for await (const value of ways[way](this.base, { signal, onError: error => this.fail(error) })) {
			if (signal.aborted) return
			this.is('live')
			if (this.first) show(value)
		}
	}
	fail(error) {
		this.is('stale')
		if (this.first) stale(error)
	}
	is(state) {
		this.dot.className = state
		const count = name => at('clients').getElementsByClassName(name).length
		at('crowd').textContent = `${count('live')} of ${at('clients').children.length} clients are up to date.`
	}
	close() {
		this.end.abort()
		this.dot.remove()
	}
}

function show(value) {
	at('order').textContent = value.order
	at('status').textContent = value.status
	at('error').textContent = ''
	at('status').className = ''
	void at('status').offsetWidth // starts the animation anew
	at('status').className = 'fresh'
}

// stale says that what is shown may not be so any more.
function stale(error) {
	at('status').className = 'stale'
	at('error').textContent = error.answer
		? `The backend fails (${error.answer.status}): this may be old.` : `No answer from Caddy: this may be old.`
	if (!error.answer) note('–', error.message)
}

function note(...said) {
	const line = document.createElement('li')
	for (const text of [new Date().toLocaleTimeString(), ...said]) {
		line.append(Object.assign(document.createElement('span'), { textContent: text ?? 'no long_poll' }))
	}
	at('answers').prepend(line)
	while (at('answers').children.length > 8) at('answers').lastChild.remove()
}

// The counts of the last seconds, to tell the rates by.
const counts = []
async function count() {
	let backend = null
	try {
		const text = await (await ask('/metrics')).text()
		backend = 0
		for (const [, n] of text.matchAll(/^caddy_http_request_duration_seconds_count\{code="\d+",handler="subroute",method="GET",server="backend"\} (\d+)/mg)) backend += Number(n)
	} catch {} // Caddy is away, which the status says
	counts.push({ now: performance.now(), asked, backend })
	if (counts.length > 6) counts.splice(1, 1) // the first one is where it began
	const [begin, early] = counts, last = counts.at(-1)
	const rate = name => early && last[name] !== null && early[name] !== null
		? ((last[name] - early[name]) / Math.max((last.now - early.now) / 1000, 1)).toFixed(1) : '–'
	at('asked').textContent = asked
	at('askedRate').textContent = rate('asked')
	at('backend').textContent = backend === null ? '–' : backend - (begin.backend ?? 0)
	at('backendRate').textContent = rate('backend')
	setTimeout(count, 1000)
}

let way = Object.keys(ways)[0]
for (const name of Object.keys(ways)) {
	const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'way', value: name, checked: name === way })
	input.onchange = () => {
		way = name
		for (const one of clients) one.start()
	}
	const label = document.createElement('label')
	label.append(input, name)
	at('ways').append(label)
}
for (const button of at('changes').children) {
	button.onclick = () => ask(`/api/order.json?status=${button.value || button.textContent}`, { method: 'POST' })
		.then(answer => { if (!answer.ok) stale({ answer }) }, stale)
}

const clients = [new client(location.origin, true)]
at('more').onclick = () => {
	// five at each of ten names, for a browser opens six connections to one
	for (let i = 0; i < 50; i++) clients.push(new client(`http://c${i % 10 + 1}.localhost:${location.port}`))
	at('more').hidden = true
	at('fewer').hidden = false
}
at('fewer').onclick = () => {
	for (const one of clients.splice(1)) one.close()
	clients[0].is(clients[0].dot.className)
	at('more').hidden = false
	at('fewer').hidden = true
}
count()
