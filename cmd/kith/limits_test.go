package main

import (
	"strings"
	"testing"
	"time"

	"kith/internal/config"
)

// What `kith config check` finds fine the gateway takes as it stands.
func TestGatewayConfigOfLimits(t *testing.T) {
	for _, limits := range []string{
		"body_bytes_max: 1024", "body_bytes_max: 67108864", "events_per_body_max: 1", "events_per_body_max: 4096", "max_event_age: 1m",
		"event_ahead_max: 0s", "event_ahead_max: 1h", "rate_events_max: 1", "rate_lookups_max: 1", "rate_optouts_max: 0", "rate_own_optouts_max: 0",
	} {
		c, err := config.Parse([]byte("retention: {sessions: 0s}\nlimits: {" + limits + "}\n"))
		if err != nil {
			t.Errorf("%s: %v", limits, err)
			continue
		}
		g := gatewayConfig(c)
		if err := g.Validate(); err != nil {
			t.Errorf("%s: %v", limits, err)
		}
		// The gateway takes 0 for its default, and counts in milliseconds.
		if ahead := g.EventAheadMax; strings.HasSuffix(limits, "ahead_max: 0s") && (ahead == 0 || ahead >= time.Millisecond) {
			t.Errorf("%s: events may lie %v ahead", limits, ahead)
		}
	}
}
