package log

import (
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"time"

	"kith/proto"
)

// Config says where a log lives and how it is reached.
type Config struct {
	// Dir holds the embedded server's files. Empty only with URL.
	Dir string
	// URL names NATS servers outside this process; whether they sync cannot
	// be known, see Warnings. Empty: the embedded server.
	URL string
	// Lanes is how many lane streams there are, 1 to proto.LanesMax.
	Lanes int
	// Mark is of the hash secret that entries are made with. A new log records it and
	// Lanes, and is opened with no others from then on. Empty: any will do.
	Mark string
	// Marked says that the store beside the log is known to be of Mark and Lanes, so
	// that they may be recorded in a log of an earlier build, which lacks them.
	Marked bool
	// MaxBytes bounds each lane's stream; appends beyond it are refused with
	// CodeDiskFull. 0: 60 % of the disk space that is free or already used by
	// the log at start, shared by the lanes, and never less than before.
	MaxBytes int64
	// Name is the node's name.
	Name string
	// Cluster joins the embedded server with those of other nodes, which keep
	// the streams together. Nil: alone.
	Cluster *Cluster
	// ClientListen is host:port for NATS clients; empty: no open port.
	ClientListen string
	// Authorize decides about network clients. Needed with ClientListen.
	Authorize func(Credentials) (Grant, bool)
	// AppendTimeout is after how long an append without an answer counts as
	// ambiguous. 0: 5 s, in a cluster 2 s.
	AppendTimeout time.Duration
	// Locked, if there is one, is called when the directory is locked and the embedded
	// server not yet started; its error is Open's.
	Locked func() error
	// Logger takes what the server has to say, at warn and above. Nil: none.
	Logger *slog.Logger

	connectionsMax int // 0: connectionsMax
}

// Cluster is how the embedded servers of several nodes find and trust one
// another. All nodes need the same Name, Secret and Replicas.
type Cluster struct {
	Name string
	// Listen is this server's host:port for the others.
	Listen string
	// Routes are the Listen addresses of the nodes that form the cluster, this
	// one's may be among them; a node that comes later needs one of them.
	Routes []string
	// Secret is what the servers know one another by. Accept are others that are
	// taken too, while a secret is being changed.
	Secret string
	Accept []string
	// TLS has a certificate of this node's and the authority of the others', for
	// both directions. Nil on loopback only.
	TLS *tls.Config
	// Replicas is how many nodes keep each stream. 0: 3, or all of Routes if
	// they are fewer.
	Replicas int
}

func (c *Cluster) validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	switch {
	case c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n"):
		return proto.Errorf(proto.CodeInvalid, "cluster name %q is not valid: use letters, digits, - and _", c.Name)
	case err != nil:
		return proto.Errorf(proto.CodeInvalid, "the address %q for the other nodes' NATS servers is not host:port: %w", c.Listen, err)
	case c.Secret == "":
		return proto.Errorf(proto.CodeInvalid, "the NATS servers of a cluster need a secret in common: set one")
	case c.TLS == nil && !proto.Loopback(host):
		return proto.Errorf(proto.CodeInvalid, "NATS servers talk to one another at %s without TLS: give them certificates, or listen on 127.0.0.1", c.Listen)
	case c.Replicas < 0 || c.Replicas > 5:
		return proto.Errorf(proto.CodeInvalid, "%d replicas of a stream are not possible: use 1 to 5", c.Replicas)
	}
	for _, r := range c.Routes {
		if _, _, err := net.SplitHostPort(r); err != nil {
			return proto.Errorf(proto.CodeInvalid, "the address %q of another node's NATS server is not host:port: %w", r, err)
		}
	}
	if c.Replicas == 0 {
		c.Replicas = min(max(len(c.Routes), 1), 3)
	}
	return nil
}

// Credentials are what a network client presented.
type Credentials struct {
	User, Password, Token string
	Remote                net.Addr
}

// Grant is what a network client may do. The log's own subjects stay out of
// reach whatever a grant says.
type Grant struct {
	Name               string      // for the log; connections are counted by it
	Few                bool        // connections and subscriptions, as for who asks only
	Publish, Subscribe []string    // NATS subjects, wild cards allowed
	Holds              func() bool // whether it was not taken back, see Recheck; nil: it never is
}

// Validate reports the first thing that is wrong, and sets defaults.
func (c *Config) Validate() error {
	switch {
	case c.URL == "" && c.Dir == "":
		return proto.Errorf(proto.CodeInvalid, "the log has neither a directory nor a NATS URL: set one of them")
	case c.URL != "" && c.ClientListen != "":
		return proto.Errorf(proto.CodeInvalid, "a NATS client address %q was given with an external NATS: clients connect to that NATS, leave the address out", c.ClientListen)
	case c.Lanes < 1 || c.Lanes > proto.LanesMax:
		return proto.Errorf(proto.CodeInvalid, "%d lanes are not possible: use 1 to %d", c.Lanes, proto.LanesMax)
	case c.MaxBytes != 0 && c.MaxBytes < laneBytesMin:
		return proto.Errorf(proto.CodeInvalid, "log_max_bytes is %d: give each lane at least %d, or 0 to derive it from the disk", c.MaxBytes, laneBytesMin)
	case c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n"):
		return proto.Errorf(proto.CodeInvalid, "node name %q is not valid: use letters, digits, - and _", c.Name)
	case c.ClientListen != "" && c.Authorize == nil:
		return proto.Errorf(proto.CodeInvalid, "a NATS client address needs keys to check clients by")
	case c.AppendTimeout < 0:
		return proto.Errorf(proto.CodeInvalid, "the append timeout %v is negative", c.AppendTimeout)
	}
	if c.Cluster != nil {
		if c.URL != "" {
			return proto.Errorf(proto.CodeInvalid, "a cluster of embedded NATS servers was asked for with an external NATS at %s: leave one out", hostsOf(c.URL))
		}
		if err := c.Cluster.validate(); err != nil {
			return err
		}
	}
	if c.ClientListen != "" {
		if _, _, err := net.SplitHostPort(c.ClientListen); err != nil {
			return proto.Errorf(proto.CodeInvalid, "NATS client address %q is not host:port: %w", c.ClientListen, err)
		}
	}
	if c.AppendTimeout == 0 {
		if c.AppendTimeout = 5 * time.Second; c.Cluster != nil {
			c.AppendTimeout = 2 * time.Second // a leader that was killed answers nothing
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// laneBytesMin leaves room for a few entries of the largest size.
const laneBytesMin = 8 << 20
