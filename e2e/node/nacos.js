// The configs are those that are named after SITE and N.
const crowd = require('./crowd')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { DataClient } = require('nacos')

const cacheDir = fs.mkdtempSync(path.join(os.tmpdir(), 'nacos'))
process.on('exit', () => fs.rmSync(cacheDir, { recursive: true, force: true }))

const dataIds = process.argv.slice(4)

// NacosConfigClient is this behind a cache that all clients of a process share, and
// those of other processes by a fixed port.
crowd(async (site, tell, fail) => {
	const client = new DataClient({ serverAddr: new URL(site).host, cacheDir })
	client.on('error', fail)
	await client.ready()
	for (const dataId of dataIds) {
		client.subscribe({ dataId, group: 'DEFAULT_GROUP' }, tell)
	}
})
