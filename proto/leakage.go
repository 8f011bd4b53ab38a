package proto

import "time"

// HostsEvent is the event by which a tag tells which third parties' hosts a page
// asked, and HostsProp its property: names, a space between two.
const (
	HostsEvent = "kith.hosts"
	HostsProp  = "hosts"
)

// Leakage is who else is told of a client's pages, as its tags saw it.
type Leakage struct {
	Client ClientName `json:"client"`
	Since  time.Time  `json:"since"`
	// Pages are the events that told of hosts; nil if fewer people saw any than may be
	// told of.
	Pages *uint64 `json:"pages"`
	// Hosts are the third parties, those that most people met first.
	Hosts []ThirdParty `json:"hosts"`
	// Withheld is how many hosts fewer people met than may be told of.
	Withheld int `json:"withheld"`
	// More says that there were more hosts than are counted.
	More       bool     `json:"more"`
	Partitions Answered `json:"partitions"`
}

// ThirdParty is one host that pages asked.
type ThirdParty struct {
	Host       string `json:"host"`
	Allowed    bool   `json:"allowed"` // by the client's list
	Pages      uint64 `json:"pages"`
	Identities uint64 `json:"identities"`
	// First and Last are the first and the last day on which it was met.
	First Day `json:"first"`
	Last  Day `json:"last"`
	// On are some of the client's own hosts on which it was met.
	On []string `json:"on"`
}
