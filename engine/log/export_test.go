package log

import (
	"bytes"
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// AmbiguousError is an error as after an append without an answer.
func AmbiguousError(why string) error { return ambiguous(why) }

// SyncAlways is what the embedded server says of itself.
func (l *Log) SyncAlways() bool { return l.embedded.server.JetStreamConfig().SyncAlways }

// Own is how the log itself logs in.
func (l *Log) Own() (user, secret string) { return l.embedded.user, l.embedded.secret }

// CheckBlock checks one block file of the server.
func CheckBlock(b []byte, last uint64, newest bool) (uint64, int64, string, error) {
	return checkBlock(bytes.NewReader(b), last, newest)
}

// CheckBlocks checks all block files below dir.
func CheckBlocks(dir string) error { return checkBlocks(dir, true) }

// Kill ends the log without handing its streams over or telling anybody.
func (l *Log) Kill() {
	if l.embedded != nil {
		l.embedded.clustered = false
	}
	l.Close()
}

// NoDoubt believes a cluster's streams at once that they lost something.
func (l *Log) NoDoubt() { l.doubt = 0 }

// Routes is to how many other servers the embedded one has a connection.
func (l *Log) Routes() int { return l.embedded.server.NumRoutes() }

// ControlBytes is what the control stream takes by its server's account.
func (l *Log) ControlBytes(ctx context.Context) (uint64, error) {
	i, err := l.control.Info(ctx)
	return i.Bytes, err
}

// PeerID is by what a cluster's servers are taken to know a node, Peer by what they
// know this one.
func PeerID(node string) string { return peerID(node) }
func (l *Log) Peer() string     { return l.embedded.server.Node() }

// UntilRemoved asks for a removal until it is made.
func UntilRemoved(ctx context.Context, ask func() (int, string, error)) error {
	return untilRemoved(ctx, "n", ask)
}

// Codes of answers to it.
const (
	NotMember = notMember
	Changing  = changing
)

// SetConnectionsMax has the embedded server take so many connections only.
func (c *Config) SetConnectionsMax(n int) { c.connectionsMax = n }

// ConnectOwn is one more connection of our own.
func (l *Log) ConnectOwn() (*nats.Conn, error) { return l.embedded.connect(&l.config) }

// Connections is how many the embedded server has.
func (l *Log) Connections() int { return l.embedded.server.NumClients() }

// DeadAfter is for how long a connection counts whose client is gone without a word.
func (l *Log) DeadAfter() (time.Duration, error) {
	v, err := l.embedded.server.Varz(nil)
	if err != nil {
		return 0, err
	}
	return v.PingInterval * time.Duration(v.MaxPingsOut+1), nil
}

// Listeners is how many subscriptions of the embedded server take a subject.
func (l *Log) Listeners(subject string) int {
	return l.embedded.server.GlobalAccount().Interest(subject)
}

// Bounds of network clients.
var (
	ManyConnections, ManySubscriptions = many.connections, many.subscriptions
	FewConnections, FewSubscriptions   = few.connections, few.subscriptions
)

// StatusesAtOnce is how many streams are asked for at once.
const StatusesAtOnce = statusesAtOnce

// Statuses are those of streams by what js tells of them.
func Statuses(ctx context.Context, js jetstream.JetStream, names []string) []proto.StreamStatus {
	return (&Log{js: js}).statuses(ctx, names)
}
