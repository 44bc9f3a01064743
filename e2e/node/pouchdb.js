const crowd = require('./crowd')
const PouchDB = require('pouchdb-core').default ?? require('pouchdb-core')
const http = require('pouchdb-adapter-http')

PouchDB.plugin(http.default ?? http)

crowd((site, tell, fail) => {
	const db = new PouchDB(site + '/db', { skip_setup: true })
	const changes = db.changes({ live: true, since: 'now', timeout: 2000 })
	changes.on('change', change => tell(change.id))
	changes.on('error', fail)
	changes.catch(fail)
})
