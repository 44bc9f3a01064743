const crowd = require('./crowd')
const { EventSource } = require('eventsource')

crowd((site, tell, fail) => {
	const source = new EventSource(site + '/api/order')
	source.onmessage = event => tell(JSON.parse(event.data).value)
	source.addEventListener('status', fail)
	source.onerror = error => {
		if (source.readyState === EventSource.CLOSED) fail(error)
	}
})
