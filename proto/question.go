package proto

// Question is a request on the service plane that one node passes on to another.
type Question struct {
	Method string
	Target string              // path and query, escaped
	Header map[string][]string // as net/http's
	Body   []byte
	// Audited: whoever passes it on writes its line of the audit log, or counts it, so
	// that it is there once however many nodes are asked.
	Audited bool
}

// Reply is what became of a Question.
type Reply struct {
	Status int
	Header map[string][]string
	Body   []byte
}
