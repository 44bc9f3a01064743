// A client of long_poll in one file without dependencies, for browsers and for Node 18
// or newer: made to be copied.

/**
 * Yields what is at url, again each time that it has changed, and once more when an
 * error is over. It ends when signal is aborted, or when the caller's loop ends.
 *
 * wait: for how many seconds the server may hold a request. Default: 25.
 * headers: more request fields, read anew for each request. Default: none.
 * read: makes the value of a 2xx answer (a Response). Default: its JSON.
 * onError: is told each failure, and `answer` with it if there was one; what it throws
 * ends the loop. Default: a warning on the console.
 */
export async function* watch(url, { wait = 25, headers, read = answer => answer.json(), onError = console.warn, signal } = {}) {
	let etag = null, value, known = false, failures = 0, hasty = false
	while (!signal?.aborted) {
		const asked = performance.now(), sent = etag
		const fields = new Headers(headers)
		// the first one after an error waits for a second only: to learn soon that it is over
		fields.set('Prefer', `wait=${failures ? Math.min(wait, 1) : wait}`)
		if (sent) fields.set('If-None-Match', sent)
		// no-store keeps a browser's cache out of it, which would turn a 304 into a 200
		const request = new Request(url, { headers: fields, cache: 'no-store' })
		let answer, pause = 0, news = false
		try {
			const body = await exchange(request, wait + 35, signal, async given => {
				answer = given
				if (answer.ok) return read(answer)
				await answer.body?.cancel()
				if (answer.status !== 304) throw Object.assign(new Error(`${url}: ${answer.status} ${answer.statusText}`), { answer })
			})
			const early = performance.now() - asked < 1000
			if (answer.ok) {
				etag = answer.headers.get('ETag')
				news = !etag || etag !== sent
				value = body
				known = true
			}
			// nobody has waited for this answer, or for two in a row: a site without long_poll, a reload
			if (answer.ok && !(etag && news) || early && (!news || hasty)) pause = 1
			news ||= failures > 0 && known
			failures = 0
			hasty = early
		} catch (error) {
			if (signal?.aborted) return
			onError(error)
			pause = Math.min(2 ** failures++, 30)
		}
		if (news) yield value
		// a part of it by chance, so that not all come back at once
		if (pause) await sleep(Math.max(pause, retryAfter(answer)) + pause * Math.random(), signal)
	}
}

// exchange ends with the signal, and with the patience (seconds), which is more than wait:
// a connection that died silently never answers.
async function exchange(request, patience, signal, then) {
	const end = new AbortController()
	const leave = () => end.abort(signal.reason)
	const timer = setTimeout(() => end.abort(new Error(`${request.url}: no answer within ${patience} s`)), patience * 1000)
	signal?.addEventListener('abort', leave)
	try {
		return await then(await fetch(request, { signal: end.signal }))
	} finally {
		clearTimeout(timer)
		signal?.removeEventListener('abort', leave)
	}
}

// retryAfter is for how many seconds, an hour at most, an answer says to stay away: a number
// or a date (RFC 9110, 10.2.3), which is one by the server's clock.
function retryAfter(answer) {
	const said = answer?.headers.get('Retry-After') ?? ''
	if (/^\d+$/.test(said)) return Math.min(Number(said), 3600)
	const now = Date.parse(answer?.headers.get('Date')) || Date.now()
	return Math.min(Math.max((Date.parse(said) - now) / 1000 || 0, 0), 3600)
}

function sleep(seconds, signal) {
	return new Promise(wake => {
		const timer = setTimeout(done, signal?.aborted ? 0 : seconds * 1000)
		signal?.addEventListener('abort', done)
		function done() {
			clearTimeout(timer)
			signal?.removeEventListener('abort', done)
			wake()
		}
	})
}
