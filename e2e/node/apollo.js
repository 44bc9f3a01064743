// One namespace, or those that are named after SITE and N.
const crowd = require('./crowd')
const apollo = require('ctrip-apollo')

const namespaces = process.argv.length > 4 ? process.argv.slice(4) : ['application']

crowd(async (host, tell, fail) => {
	const app = apollo({
		host,
		appId: 'shop',
		// It says nothing of polls that fail but asks what to do.
		pollingRetryPolicy: retries => {
			fail('polling has failed')
			return { delay: 1000 * retries }
		},
	})
	for (const name of namespaces) {
		const namespace = app.namespace(name)
		namespace.on('fetch-error', fail)
		namespace.on('change', ({ newValue }) => tell(newValue))
		await namespace.ready()
	}
})
