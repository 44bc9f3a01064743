// Package integration holds no code: its tests run the real binary in front of real
// backends, with real clients, a real redis-server and a real browser, and hold the
// manual and the dashboards against what there is. They run in the module's root, where
// the files are that they speak of.
package integration
