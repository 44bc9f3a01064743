// What a client script needs to be driven by the Go tests: `node script.js SITE
// N` runs N clients until its standard input ends, and says a line of JSON for each
// value or error that one of them is told.
const { format } = require('node:util')

const [site, n] = [process.argv[2], Number(process.argv[3])]

const say = line => process.stdout.write(JSON.stringify(line) + '\n')

process.stdin.on('end', () => process.exit()).resume()

// crowd starts n clients: one(site, tell, fail) is to run for ever.
module.exports = one => {
	for (let client = 0; client < n; client++) {
		const tell = value => say({ client, value: String(value) })
		const fail = error => say({ client, error: format('%o', error) })
		Promise.resolve().then(() => one(site, tell, fail)).catch(fail)
	}
}
