package engine

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kith/graph"
	"kith/proto"
)

// Collector gives the node's state to Prometheus. It reads counters only.
func (n *Node) Collector() prometheus.Collector {
	return &collector{n: n, descs: map[string]*prometheus.Desc{
		"events":      desc("events_applied_total", "Events taken in by identities.", "lane"),
		"repeated":    desc("events_repeated_total", "Events whose id was known: nothing was done.", "lane"),
		"dead":        desc("dead_letters_total", "Commands set aside because an identity's step failed, since the start.", "lane"),
		"letters":     desc("dead_letters", "Commands that were set aside and are kept to be replayed, now.", "lane"),
		"unkept":      desc("dead_letters_unkept_total", "Commands set aside and not kept, because the lane had as many letters as it keeps, since the start.", "lane"),
		"identities":  desc("identities", "Identities that have a number.", "lane"),
		"active":      desc("identity_actors", "Identities in memory.", "lane"),
		"applied":     desc("applied_offset", "Log offset that look-ups see.", "lane"),
		"laneTime":    desc("lane_time_seconds", "Lane time, seconds since the epoch; it should run with the clock.", "lane"),
		"quarantined": desc("lane_quarantined", "1 if the lane stopped: see /v1/partitions.", "lane"),
		"stopped":     desc("control_stopped", "1 if the control stream can no longer be followed: /readyz has the reason."),
		"journal":     desc("journal_bytes", "Bitmap deltas not yet folded into chunks.", "lane"),
		"buffered":    desc("intake_buffered_bytes", "Commands that wait for the log.", "lane"),
		"entries":     desc("log_entries_total", "Entries appended and acknowledged.", "lane"),
		"packed":      desc("log_commands_total", "Commands appended and acknowledged.", "lane"),
		"overloads":   desc("intake_overloads_total", "Submissions refused because the buffer was full.", "lane"),
		"failed":      desc("log_append_failures_total", "Entries that did not get into the log: those who sent what is in them were told to send it again.", "lane"),
		"owned":       desc("lane_owned", "In a cluster: 1 if this node does the lane's upkeep, as far as it knows who the members are.", "lane"),
		"lease":       desc("lane_lease_held", "In a cluster: 1 while this node may answer for the lane.", "lane"),
		"ignored":     desc("events_ignored_total", "Events that changed nothing: of opted-out identities, or from before they came back.", "lane"),
		"messages":    desc("graph_messages_total", "Messages of the graph taken in, those that came from outside included.", "lane"),
		"sent":        desc("graph_sent_bytes", "Graph messages on their way to other lanes.", "lane"),
		"decided":     desc("links_answered_total", "Links that were asked about and are within a user.", "lane"),
		"refused":     desc("links_refused_total", "Edges that were not made, or were given up, by reason.", "lane", "reason"),
		"joined":      desc("user_joins_total", "Times that an identity became of another user of several.", "lane"),
		"left":        desc("user_leaves_total", "Times that an identity became alone.", "lane"),
		"cuts":        desc("optouts_applied_total", "Identities cut out.", "lane"),
		"optIns":      desc("optins_applied_total", "Identities that were let in again, or erased.", "lane"),
		"linked":      desc("linked_identities", "Identities that are of users of several.", "lane"),
		"users":       desc("users", "Users of several identities, by their size up to a bound; as of half a minute ago.", "le"),
		"control":     desc("control_bytes", "What the control stream holds: clients, keys, definitions, saved audiences, reports and all that there was of them."),
		"controlMax":  desc("control_bytes_max", "What it may hold: over three quarters of it clients' keys define nothing more, at all of it nobody does."),
		"ledger":      desc("ledger_written_total", "Opt-outs, opt-ins and erasures written to the ledger since the start."),
		"untold":      desc("ledger_waiting", "Opt-outs that are not in the ledger yet."),
		"feedLines":   desc("feed_lines_total", "Changes of memberships that this node told clients' feeds since the start."),
		"feedWaiting": desc("feed_waiting_bytes", "What lanes keep for clients' feeds until it is told.", "lane"),
		"views":       desc("views", "Cached read views."),
		"differ":      desc("lane_differing_nodes", "Other nodes that came to another state of the lane from the same log.", "lane"),
		"diskFull":    desc("disk_full", "1 while events are refused because the disk is nearly full."),
		"free":        desc("disk_free_bytes", "What may still be written where the log and the store are; of two disks, the fuller."),
		"room":        desc("disk_room_bytes", "What events may still take where the log and the store are, of two disks the fuller: free without the reserve and, on the store's, without what merges take."),
		"reserve":     desc("disk_reserve_bytes", "With less free than this on the store's disk events are refused."),
		"stepped":     desc("clock_stepped", "1 while the wall clock was stepped and is not believed."),
		"apart":       desc("clock_apart_seconds", "In a cluster: the most by which another node's time certainly differs from this one's."),
		"lacking":     desc("log_copies_missing", "In a cluster: by how many nodes fewer a stream of the log is kept, or is kept up to date, than it is to be, 1 at least while it has no leader; as of a quarter of a minute ago.", "stream"),
		"refusedNATS": desc("nats_connections_refused_total", "Connections of programs to the embedded NATS that were not let in because there were as many as there may be, since the start."),
		"logHealthy":  desc("log_healthy", "0 if the log takes no entries: its disk failed or is full, or most of a cluster's nodes are gone."),
	}}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kith_"+name, help, labels, nil)
}

type collector struct {
	n     *Node
	descs map[string]*prometheus.Desc

	mu    sync.Mutex // guards what follows
	sizes []int      // of users, by bound
	read  time.Time
}

// userSizes are the bounds of the metric of users.
var userSizes = [...]int{2, 4, 8, 16, 32, 64}

const userSizesFresh = 30 * time.Second

// newCutSeconds is how long opt-outs and erasures take until they are final.
func newCutSeconds() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "kith_optout_seconds", Help: "From an opt-out or erasure to its receipt.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2},
	})
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
	c.n.cutSeconds.Describe(ch)
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	put := func(name string, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], kind, v, labels...)
	}
	for i, l := range c.n.lanes {
		lane := l.id.String()
		applied, _, laneTime, fault := l.progress.get()
		put("events", prometheus.CounterValue, float64(l.events.Load()), lane)
		put("repeated", prometheus.CounterValue, float64(l.repeated.Load()), lane)
		put("dead", prometheus.CounterValue, float64(l.dead.Load()), lane)
		put("letters", prometheus.GaugeValue, float64(l.lettersKept.Load()), lane)
		put("unkept", prometheus.CounterValue, float64(l.unkept.Load()), lane)
		put("identities", prometheus.GaugeValue, float64(l.numbered()), lane)
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
		put("differ", prometheus.GaugeValue, float64(l.agreement.differing(bootTime())), lane)
		put("failed", prometheus.CounterValue, float64(s.Failed), lane)
		if c.n.config.Peers != nil {
			put("owned", prometheus.GaugeValue, flag(l.owner() == c.n.config.Node), lane)
			put("lease", prometheus.GaugeValue, flag(l.leases.held()), lane)
		}
		put("feedWaiting", prometheus.GaugeValue, float64(l.untold.total()), lane)
		c.collectGraph(put, l)
	}
	put("stopped", prometheus.GaugeValue, flag(c.n.registry.broken() != nil))
	for i, k := range c.usersBySize() {
		put("users", prometheus.GaugeValue, float64(k), strconv.Itoa(userSizes[i]))
	}
	written, waiting := c.n.ledger.counts()
	size := c.n.registry.sized()
	put("control", prometheus.GaugeValue, float64(size.bytes))
	put("controlMax", prometheus.GaugeValue, float64(size.most))
	put("ledger", prometheus.CounterValue, float64(written))
	put("untold", prometheus.GaugeValue, float64(waiting))
	c.n.cutSeconds.Collect(ch)
	put("feedLines", prometheus.CounterValue, float64(c.n.feeds.lines.Load()))
	put("views", prometheus.GaugeValue, float64(c.n.views.len()))
	put("diskFull", prometheus.GaugeValue, flag(c.n.disk.low()))
	put("free", prometheus.GaugeValue, float64(c.n.disk.left()))
	_, room := c.n.disk.look()
	put("room", prometheus.GaugeValue, float64(room-min(room, c.n.disk.reserve)))
	put("reserve", prometheus.GaugeValue, float64(c.n.disk.reserve+c.n.disk.merges))
	_, by := c.n.clock.look()
	put("stepped", prometheus.GaugeValue, flag(by != 0))
	if c.n.config.Peers != nil {
		put("apart", prometheus.GaugeValue, time.Duration(c.n.clock.apart.Load()).Seconds())
	}
	if lacking := c.n.lacking.Load(); lacking != nil {
		for stream, k := range *lacking {
			put("lacking", prometheus.GaugeValue, float64(k), stream)
		}
	}
	if c.n.refused != nil {
		put("refusedNATS", prometheus.CounterValue, float64(c.n.refused()))
	}
	put("logHealthy", prometheus.GaugeValue, flag(c.n.log.Healthy() == nil))
}

func (c *collector) collectGraph(put func(string, prometheus.ValueType, float64, ...string), l *lane) {
	lane, m := l.id.String(), &l.graphed
	for name, v := range map[string]*atomic.Uint64{
		"ignored": &m.ignored, "messages": &m.messages, "decided": &m.links, "joined": &m.joined, "left": &m.left,
		"cuts": &m.cuts, "optIns": &m.optIns,
	} {
		put(name, prometheus.CounterValue, float64(v.Load()), lane)
	}
	for r := range m.reasons {
		if k := m.reasons[r].Load(); k > 0 {
			put("refused", prometheus.CounterValue, float64(k), lane, graph.Reason(r).String())
		}
	}
	put("sent", prometheus.GaugeValue, float64(l.outbox.size()), lane)
	put("linked", prometheus.GaugeValue, float64(l.users.linkedCount()), lane)
}

// usersBySize counts users up to each bound. It reads all of them, so not at
// every scrape.
func (c *collector) usersBySize() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sizes != nil && time.Since(c.read) < userSizesFresh {
		return c.sizes
	}
	all := map[uint64]int{}
	for _, l := range c.n.lanes {
		l.users.addSizes(all)
	}
	c.sizes, c.read = make([]int, len(userSizes)), time.Now()
	for _, k := range all {
		for i, bound := range userSizes {
			if k <= bound {
				c.sizes[i]++
			}
		}
	}
	return c.sizes
}

func seconds(m proto.Millis) float64 { return float64(m) / 1000 }

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
