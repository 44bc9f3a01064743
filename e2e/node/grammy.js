const crowd = require('./crowd')
const { Bot } = require('grammy')

crowd((site, tell, fail) => {
	const bot = new Bot('123:secret', { client: { apiRoot: site } })
	// A poll that fails is only logged and repeated, so look at each.
	bot.api.config.use((call, ...args) => call(...args).catch(error => {
		fail(error)
		throw error
	}))
	bot.on('message:text', message => tell(message.msg.text))
	bot.catch(fail)
	return bot.start({ timeout: 2 })
})
