package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"kith/proto"
)

// metrics are the gateway's counters, looked up once. None of them names a
// client, so that /metrics needs no key.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec

	accepted     prometheus.Counter
	refused      map[proto.Code]prometheus.Counter // read only after newMetrics
	refusedOther prometheus.Counter
	unproven     prometheus.Counter
	optedOut     prometheus.Counter
	passedOn     map[bool]prometheus.Counter // by whether another node answered
	limited      prometheus.Counter
	cutsLimited  prometheus.Counter
	unauthorized prometheus.Counter
	identities   prometheus.Counter
	natsDropped  prometheus.Counter
	natsRefused  prometheus.Counter
	robots       prometheus.Counter

	bids        map[string]prometheus.Counter // by why nothing was added, "" if something was; read only after newMetrics
	matches     map[string]prometheus.Counter // likewise, "" for those that were stored
	exports     prometheus.Counter
	exportBytes prometheus.Counter

	personal [2][personalKinds]prometheus.Counter // [0] refused, [1] url cut
	kept     [keptOutThings][keptOutReasons]prometheus.Counter

	links      map[string]prometheus.Counter // by answer; read only after newMetrics
	linksOther prometheus.Counter
	unlinks    prometheus.Counter

	auditFailed prometheus.Counter
	blocked     prometheus.Counter
	optOuts     prometheus.Counter
	optIns      prometheus.Counter
	erasures    prometheus.Counter
}

type routeMetrics struct {
	classes [3]prometheus.Counter // ok, client's fault, ours
	seconds prometheus.Observer
}

// refusalCodes are the codes of events that are not taken.
var refusalCodes = [...]proto.Code{
	proto.CodeEvent, proto.CodeIdentity, proto.CodeTime, proto.CodePII, proto.CodeSensitive, proto.CodeOptedOut, proto.CodeUnproven, proto.CodeUnavailable, proto.CodeBot,
}

// linkAnswers are the reasons against a link, from here and from the engine,
// and "linked".
var linkAnswers = [...]string{
	"linked", reasonBlocked, reasonConfidence, reasonSelf, "opted_out", "cap", "stale", "removed", "busy", "cut",
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{refused: map[proto.Code]prometheus.Counter{}}
	var err error
	register := func(c prometheus.Collector) {
		if e := reg.Register(c); e != nil && err == nil {
			err = e
		}
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "kith_gateway_" + name, Help: help})
		register(c)
		return c
	}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kith_gateway_requests_total", Help: "Requests by plane, route and outcome (2xx, 4xx, 5xx)."}, []string{"plane", "route", "outcome"})
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "kith_gateway_request_seconds", Help: "Time to answer, by plane and route.",
		Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
	}, []string{"plane", "route"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kith_gateway_events_refused_total", Help: "Events not taken, by code."}, []string{"code"})
	register(m.requests)
	register(m.seconds)
	register(refused)
	for _, code := range refusalCodes {
		m.refused[code] = refused.WithLabelValues(string(code))
	}
	m.refusedOther = refused.WithLabelValues("other")
	m.accepted = counter("events_accepted_total", "Events acknowledged as durable.")
	m.unproven = counter("identities_unproven_total", "Identities of the public plane left out for want of a proof.")
	m.optedOut = counter("opted_out_requests_total", "Public requests that carried an opt-out signal.")
	m.auditFailed = counter("audit_failed_total", "Calls that could not be written to the audit log: refused, or answered all the same where they only take away.")
	m.limited = counter("rate_limited_total", "Requests refused by a client's rate limit.")
	m.cutsLimited = counter("optouts_limited_total", "Opt-outs, erasures and opt-ins refused by a rate limit, of a key or of browsers.")
	m.unauthorized = counter("unknown_keys_total", "Requests with a key that is not known.")
	m.identities = counter("lookup_identities_total", "Identities looked up.")
	m.natsDropped = counter("nats_dropped_total", "NATS messages dropped because a queue of this node was full; the NATS server may have dropped more.")
	m.natsRefused = counter("nats_refused_total", "NATS messages refused as a whole, or dropped because their reply subject is no inbox.")
	m.robots = counter("bot_events_total", "Events of robots that were taken, and marked.")
	passed := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kith_gateway_passed_on_total", Help: "Questions that this node may not answer, by whether another node did."}, []string{"answered"})
	register(passed)
	m.passedOn = map[bool]prometheus.Counter{true: passed.WithLabelValues("yes"), false: passed.WithLabelValues("no")}
	m.exports = counter("exports_total", "Exports streamed to their end.")
	m.exportBytes = counter("export_bytes_total", "Bytes of exports, of those that broke off too.")
	m.countGraph(register, counter)
	m.countPersonalData(register)
	m.countKeptOut(register)
	m.bids = byWithheld(register, "bid_requests_total", "Bid requests answered, by why nothing was added (none: something was).")
	m.matches = byWithheld(register, "matches_total", "Partners' ids, by why nothing was stored (none: it was).")
	return m, err
}

// byWithheld makes a counter for each reason, and for none.
func byWithheld(register func(prometheus.Collector), name, help string) map[string]prometheus.Counter {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kith_gateway_" + name, Help: help}, []string{"withheld"})
	register(v)
	m := map[string]prometheus.Counter{"": v.WithLabelValues("none")}
	for _, why := range withheldReasons {
		m[why] = v.WithLabelValues(why)
	}
	return m
}

// countGraph makes the counters of links and opt-outs.
func (m *metrics) countGraph(register func(prometheus.Collector), counter func(name, help string) prometheus.Counter) {
	links := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kith_gateway_links_total", Help: "Links asked for, by answer: linked, or the reason against."}, []string{"answer"})
	register(links)
	m.links = map[string]prometheus.Counter{}
	for _, a := range linkAnswers {
		m.links[a] = links.WithLabelValues(a)
	}
	m.linksOther = links.WithLabelValues("other")
	m.unlinks = counter("unlinks_total", "Links removed, or all of an identity.")
	m.blocked = counter("identities_blocked_total", "Identities of the block list left out of events.")
	m.optOuts = counter("optouts_total", "Identities opted out.")
	m.optIns = counter("optins_total", "Identities opted in.")
	m.erasures = counter("erasures_total", "Identities erased without an opt-out.")
}

func (m *metrics) countLink(l proto.Linked) {
	answer := l.Reason
	if l.Linked {
		answer = "linked"
	}
	if c, ok := m.links[answer]; ok {
		c.Inc()
	} else {
		m.linksOther.Inc()
	}
}

// route finds the counters of one route, for ever.
func (m *metrics) route(plane, route string) *routeMetrics {
	rm := &routeMetrics{seconds: m.seconds.WithLabelValues(plane, route)}
	for i, class := range [...]string{"2xx", "4xx", "5xx"} {
		rm.classes[i] = m.requests.WithLabelValues(plane, route, class)
	}
	return rm
}

func (rm *routeMetrics) count(status int) {
	switch {
	case status < 400:
		rm.classes[0].Inc()
	case status < 500:
		rm.classes[1].Inc()
	default:
		rm.classes[2].Inc()
	}
}

// countPersonalData makes the counters of personal data in events and traits.
func (m *metrics) countPersonalData(register func(prometheus.Collector)) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kith_gateway_personal_data_total", Help: "Events and rows of traits with personal data, by its kind and what became of them (refused, or their url cut).",
	}, []string{"kind", "action"})
	register(v)
	for i, action := range [...]string{"refused", "cut"} {
		for kind := noPersonal + 1; kind < personalKinds; kind++ {
			m.personal[i][kind] = v.WithLabelValues(personalLabels[kind], action)
		}
	}
}

// countPersonal counts a body's personal data.
func (m *metrics) countPersonal(found *[2][personalKinds]int) {
	for i := range found {
		for kind, n := range found[i] {
			if n > 0 {
				m.personal[i][kind].Add(float64(n))
			}
		}
	}
}

// countPost counts what became of a body's events.
func (m *metrics) countPost(accepted int, refused []refusal) {
	m.accepted.Add(float64(accepted))
	for i := range refused {
		if c, ok := m.refused[refused[i].code]; ok {
			c.Inc()
		} else {
			m.refusedOther.Inc()
		}
	}
}
