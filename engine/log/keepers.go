package log

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// Streams says which nodes keep each stream: the lanes' first, then the others, those
// of the audit log and of clients' feeds where they are. One that does not answer
// within a second has no leader, nor has what is not asked for as too many do not;
// nor has the audit log's as long as the servers have never told which of the others
// there are.
func (l *Log) Streams(ctx context.Context) []proto.StreamStatus {
	var names []string
	for _, x := range l.lanes {
		names = append(names, x.name)
	}
	for _, x := range []*control{l.control, l.ledger, l.feed} {
		names = append(names, x.name)
	}
	var outlets []proto.StreamStatus
	var asking sync.WaitGroup
	asking.Go(func() {
		names, told := l.outlets(ctx)
		if outlets = l.statuses(ctx, names); !told {
			outlets = append(outlets, proto.StreamStatus{Stream: auditName, Others: []proto.StreamCopy{}})
		}
	})
	list := l.statuses(ctx, names)
	asking.Wait()
	return append(list, outlets...)
}

// outlets are the names of the streams that are made when they are needed. While the
// servers do not tell, they are those that they told of last, if they ever told.
func (l *Log) outlets(ctx context.Context) (names []string, told bool) {
	ctx, cancel := context.WithTimeout(ctx, askTry)
	defer cancel()
	names = []string{}
	list := l.js.StreamNames(ctx, jetstream.WithStreamListSubject("kith.>"))
	for name := range list.Name() {
		if name == auditName || strings.HasPrefix(name, outletPrefix) {
			names = append(names, name)
		}
	}
	l.listing.Lock()
	defer l.listing.Unlock()
	if list.Err() == nil {
		l.listed = names
	}
	return l.listed, l.listed != nil
}

const (
	statusesAtOnce = 256 // streams that are asked for at once
	// statusesMax is for all of them: thousands without a leader keep nobody waiting.
	statusesMax = 5 * time.Second
)

func (l *Log) statuses(ctx context.Context, names []string) []proto.StreamStatus {
	ctx, cancel := context.WithTimeout(ctx, statusesMax)
	defer cancel()
	list := make([]proto.StreamStatus, len(names))
	var asking sync.WaitGroup
	places := make(chan struct{}, statusesAtOnce)
	for i, name := range names {
		places <- struct{}{}
		asking.Go(func() {
			list[i] = l.status(ctx, name)
			<-places
		})
	}
	asking.Wait()
	return list
}

func (l *Log) status(ctx context.Context, name string) proto.StreamStatus {
	x := proto.StreamStatus{Stream: name, Others: []proto.StreamCopy{}}
	ctx, cancel := context.WithTimeout(ctx, askTry)
	defer cancel()
	s, err := l.js.Stream(ctx, name)
	if err != nil {
		return x
	}
	info := s.CachedInfo()
	if info.Cluster == nil {
		x.Leader = l.conn.ConnectedServerName()
		return x
	}
	x.Leader = info.Cluster.Leader
	for _, p := range info.Cluster.Replicas {
		x.Others = append(x.Others, proto.StreamCopy{Node: p.Name, Current: p.Current && !p.Offline, Lag: p.Lag})
	}
	keep := len(x.Others) // without a leader this server's is among them
	if x.Leader != "" {
		keep++
	}
	want := info.Config.Replicas
	if c := l.config.Cluster; c != nil {
		want = max(want, c.Replicas) // which it gets when it is opened
	}
	x.Missing = max(0, want-keep)
	return x
}

// RemoveServer has the other servers of the cluster do without the one of a node
// that is gone for good: it counts no more in their votes, and what it kept is
// kept by another, if there is one more than needed. A node of that name may come
// again, with an empty directory.
func (l *Log) RemoveServer(ctx context.Context, node string) error {
	if l.embedded == nil || !l.embedded.clustered {
		return proto.Errorf(proto.CodeConflict, "the log is not kept by the nodes of a cluster: its servers are not kith's to remove")
	}
	nc, err := l.embedded.connectAs(l.embedded.system, &l.config)
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "no connection to the embedded NATS server: %w", err)
	}
	defer nc.Close()
	body, err := json.Marshal(map[string]string{"peer": node, "peer_id": peerID(node)})
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode the removal of a server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	return untilRemoved(ctx, node, func() (int, string, error) { return askRemoval(ctx, nc, body) })
}

// untilRemoved asks for a removal until it is made, refused, or ctx ends.
func untilRemoved(ctx context.Context, node string, ask func() (code int, why string, err error)) error {
	began, last := false, error(nil)
	for {
		code, why, err := ask()
		switch {
		case err == nil && code == 0:
			return nil
		case code == notMember && began: // by a question whose answer is late or got lost
			return nil
		case code == notMember:
			return proto.Errorf(proto.CodeNotFound, "the log's servers know of none of a node %q (any more)", node)
		case err == nil && code != changing:
			return proto.Errorf(proto.CodeConflict, "the log's servers do not remove %s: %s", node, why)
		}
		began = began || code == changing || err != nil && !errors.Is(err, nats.ErrNoResponders)
		if ctx.Err() == nil {
			last = cmp.Or(err, errors.New(why))
		}
		select {
		case <-time.After(removeTry / 4):
		case <-ctx.Done():
			return proto.Errorf(proto.CodeUnavailable, "node %s was not removed from the log's servers within %v: more than half of them must run for that; ask again: %w", node, removeTimeout, last)
		}
	}
}

// peerID is by what the servers know a node: what nats-server's getHash makes of its
// name. By the name alone its leader finds only those that it has met since its start.
func peerID(node string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(node))
	id := sum[:8]
	for i, b := range id {
		id[i] = digits[int(b)%len(digits)]
	}
	return string(id)
}

const (
	// removeTimeout is for all of a removal: an election may be under way.
	removeTimeout = 20 * time.Second
	removeTry     = 2 * time.Second
	// Error codes of nats-server: JSClusterServerNotMemberErr,
	// JSClusterServerMemberChangeInflightErr.
	notMember = 10044
	changing  = 10202
)

// askRemoval asks for a removal once. A code of 0 without an error says that it
// was made.
func askRemoval(ctx context.Context, nc *nats.Conn, body []byte) (code int, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, removeTry)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.SERVER.REMOVE", body)
	if err != nil {
		return 0, "", err
	}
	var answer struct {
		Error struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	err = json.Unmarshal(m.Data, &answer)
	return answer.Error.Code, answer.Error.Description, err
}
