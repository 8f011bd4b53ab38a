// Package gateway is the outside of kith: the public plane for browsers and
// apps, the service plane for those with a key, and the same over NATS.
//
// It checks every request (client, consent, form, limits, personal data) and
// turns events into packed commands for the Intake; an event is acknowledged
// only when the Intake said that it is durable. Look-ups go to the
// Memberships' read views. docs/api.md is its contract.
//
// It holds no state beside limiters and metrics, stores nothing, and never
// passes an IP address on. It decides nothing about membership, links or
// opt-outs: those are the log's. NATS subjects that it answers:
//
//	kith.in.<client>   events
//	kith.query.lookup  look-ups
//	kith.query.count   counts
package gateway
