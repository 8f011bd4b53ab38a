package engine

import (
	"github.com/prometheus/client_golang/prometheus"

	"kith/proto"
)

// Collector gives the node's state to Prometheus. It reads counters only.
func (n *Node) Collector() prometheus.Collector {
	return collector{n, map[string]*prometheus.Desc{
		"events":      desc("events_applied_total", "Events taken in by identities.", "lane"),
		"repeated":    desc("events_repeated_total", "Events whose id was known: nothing was done.", "lane"),
		"dead":        desc("dead_letters_total", "Commands set aside because an identity's step failed, since the start.", "lane"),
		"identities":  desc("identities", "Identities that have a number.", "lane"),
		"active":      desc("identity_actors", "Identities in memory.", "lane"),
		"applied":     desc("applied_offset", "Log offset that look-ups see.", "lane"),
		"laneTime":    desc("lane_time_seconds", "Lane time, seconds since the epoch; it should run with the clock.", "lane"),
		"quarantined": desc("lane_quarantined", "1 if the lane stopped: see /v1/partitions.", "lane"),
		"journal":     desc("journal_bytes", "Bitmap deltas not yet folded into chunks.", "lane"),
		"buffered":    desc("intake_buffered_bytes", "Commands that wait for the log.", "lane"),
		"entries":     desc("log_entries_total", "Entries appended and acknowledged.", "lane"),
		"packed":      desc("log_commands_total", "Commands appended and acknowledged.", "lane"),
		"overloads":   desc("intake_overloads_total", "Submissions refused because the buffer was full.", "lane"),
		"views":       desc("views", "Cached read views."),
		"diskFull":    desc("disk_full", "1 while events are refused because the disk is nearly full."),
	}}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kith_"+name, help, labels, nil)
}

type collector struct {
	n     *Node
	descs map[string]*prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	put := func(name string, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], kind, v, labels...)
	}
	for i, l := range c.n.lanes {
		lane := l.id.String()
		applied, _, laneTime, fault := l.progress.get()
		put("events", prometheus.CounterValue, float64(l.events.Load()), lane)
		put("repeated", prometheus.CounterValue, float64(l.repeated.Load()), lane)
		put("dead", prometheus.CounterValue, float64(l.dead.Load()), lane)
		put("identities", prometheus.GaugeValue, float64(l.named.Load()), lane)
		put("active", prometheus.GaugeValue, float64(l.active.Load()), lane)
		put("applied", prometheus.GaugeValue, float64(applied), lane)
		put("laneTime", prometheus.GaugeValue, seconds(laneTime), lane)
		put("quarantined", prometheus.GaugeValue, flag(fault != nil), lane)
		put("journal", prometheus.GaugeValue, float64(l.journalBytes.Load()), lane)
		s := c.n.packers[i].Stats()
		put("buffered", prometheus.GaugeValue, float64(s.BufferedBytes), lane)
		put("entries", prometheus.CounterValue, float64(s.Entries), lane)
		put("packed", prometheus.CounterValue, float64(s.Commands), lane)
		put("overloads", prometheus.CounterValue, float64(s.Refused), lane)
	}
	put("views", prometheus.GaugeValue, float64(c.n.views.len()))
	put("diskFull", prometheus.GaugeValue, flag(c.n.disk.low()))
}

func seconds(m proto.Millis) float64 { return float64(m) / 1000 }

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
