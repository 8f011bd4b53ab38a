package proto

// PassedOn are the headers that go with a question to another node.
var PassedOn = [...]string{"Authorization", "Content-Type", "Content-Encoding", "Accept"}

// Question is a request on the service plane that one node passes on to another.
type Question struct {
	Method string
	Target string            // path and query, escaped
	Header map[string]string // of PassedOn
	Body   []byte
}

// Reply is what became of a Question.
type Reply struct {
	Status      int
	ContentType string
	Body        []byte
}
