const crowd = require('./crowd')
const nano = require('nano')

crowd((site, tell, fail) => {
	const changes = nano(site).use('db').changesReader.start({ timeout: 2000 })
	changes.on('change', change => tell(change.id))
	changes.on('error', fail)
})
