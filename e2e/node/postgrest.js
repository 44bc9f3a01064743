// Clients of PostgREST that ask for a count, or for none (`exact`, `none` after N).
const crowd = require('./crowd')
const { PostgrestClient } = require('@supabase/postgrest-js')

const count = process.argv[4] === 'exact' ? 'exact' : undefined

// What a page adds to its client: it says what it has, and how long it waits.
function patient() {
	let etag
	return async (url, options) => {
		for (;;) {
			const headers = new Headers(options.headers)
			headers.set('Prefer', [headers.get('Prefer'), 'wait=2'].filter(Boolean).join(', '))
			if (etag) headers.set('If-None-Match', etag)
			const answer = await fetch(url, { ...options, headers })
			if (answer.status !== 304) {
				etag = answer.headers.get('ETag')
				return answer
			}
		}
	}
}

crowd(async (site, tell) => {
	const client = new PostgrestClient(site, { fetch: patient() })
	for (;;) {
		const answer = await client.from('orders').select('id', { count })
		if (answer.error) throw answer.error
		const rows = answer.data.length
		if (answer.count !== (count ? rows : null)) throw new Error(`${rows} rows, and a count of ${answer.count}`)
		tell(rows)
	}
})
