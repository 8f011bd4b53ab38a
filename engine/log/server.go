package log

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/sys/unix"

	"kith/proto"
)

const (
	// natsPayloadMax takes the largest entry with its envelope.
	natsPayloadMax = 2 * proto.EntryBytesMax
	// ControlBytesMax bounds the control stream, ControlRecordBytes what it takes for
	// a record beside the record itself.
	ControlBytesMax    = 1 << 30
	ControlRecordBytes = 100
	// otherBytesMax is left in JetStream for streams that other rooms make.
	otherBytesMax = 4 << 30

	serverStartMax = 60 * time.Second

	// Bounds of network clients. What waits for one that reads too slowly is bounded by
	// the server's MaxPending, which holds for our own connections too: the lanes' read
	// ahead needs all of it.
	connectionsMax   = 8192 // half of them of clients; strangers, who have two seconds to show a key, and our own count too
	refusedTellEvery = 10 * time.Second

	// A client that is gone without a word counts among its name's connections until
	// so many pings and one more are not answered: for a minute. Other servers are asked
	// as the server does by itself.
	pingEvery, pingsMax = 20 * time.Second, 2
	routePingEvery      = 30 * time.Second

	routeUser = "kith"
	lameDuck  = 2 * time.Second // from handing its streams over to the end
)

// bounds of what a grant opens.
type bounds struct {
	connections   int // of the grant's name
	subscriptions int // of a connection
}

var many, few = bounds{32, 64}, bounds{4, 16}

func (g Grant) bounds() bounds {
	if g.Few {
		return few
	}
	return many
}

// OfCluster reports whether the log in a directory was ever kept by several servers:
// what is in it may not be all that was acknowledged. If in doubt it was.
func OfCluster(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "jetstream", "$SYS", "_js_", "_meta_"))
	return !errors.Is(err, fs.ErrNotExist)
}

// embedded is the NATS server inside this process.
type embedded struct {
	server *server.Server
	lock   *os.File
	user   string // of our own connection
	system string // of one to the account by which the servers run their cluster
	secret string
	prefix string // of our own reply subjects
	door   *authentication

	clustered bool
}

// startEmbedded locks the directory and starts the server in it. No port is
// opened unless c.ClientListen says so.
func startEmbedded(ctx context.Context, c *Config, maxStore int64) (_ *embedded, err error) {
	x := &embedded{user: "kith-" + rand.Text(), system: "system-" + rand.Text(), secret: rand.Text(), prefix: "_KITH." + rand.Text(), clustered: c.Cluster != nil}
	if x.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			x.stop()
		}
	}()
	if c.Locked != nil {
		if err = c.Locked(); err != nil {
			return nil, err
		}
	}
	if err = checkBlocks(c.Dir, c.Cluster == nil); err != nil {
		return nil, err
	}
	opts, err := x.options(c, maxStore)
	if err != nil {
		return nil, err
	}
	if x.server, err = server.NewServer(opts); err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "the embedded NATS server refuses its options: %w", err)
	}
	said := &serverLog{to: c.Logger}
	x.server.SetLoggerV2(said, false, false, false)
	x.server.Start()
	err = x.ready(ctx, said)
	switch fatal := said.fatal.get(); {
	case (err == nil || fatal != "") && !x.server.JetStreamEnabled():
		return nil, proto.Errorf(proto.CodeCorrupt, "JetStream did not start in %s (%s): check the disk, its permissions and free space, or restore a backup", c.Dir, said.last())
	case fatal != "":
		return nil, proto.Errorf(proto.CodeUnavailable, "the embedded NATS server did not start (%s): is its port in use?", fatal)
	case err != nil:
		return nil, err
	}
	return x, nil
}

func (x *embedded) options(c *Config, maxStore int64) (*server.Options, error) {
	connections := cmp.Or(c.connectionsMax, connectionsMax)
	x.door = &authentication{own: x, most: connections / 2, authorize: network(c), logger: c.Logger, limits: map[bounds]string{}, granted: map[string]map[uint64]Grant{}}
	if x.door.authorize != nil {
		var err error
		for _, b := range []bounds{many, few} {
			if x.door.limits[b], err = clientLimits(b); err != nil {
				return nil, proto.Errorf(proto.CodeInternal, "the limits of NATS clients cannot be signed: %w", err)
			}
		}
	}
	o := &server.Options{
		ServerName:                 c.Name,
		DontListen:                 true,
		NoSigs:                     true,
		NoSystemAccount:            true,
		JetStream:                  true,
		StoreDir:                   c.Dir, // the server adds jetstream/
		JetStreamMaxStore:          maxStore,
		JetStreamMaxMemory:         64 << 20,
		SyncAlways:                 true,
		MaxPayload:                 natsPayloadMax,
		MaxConn:                    connections,
		PingInterval:               pingEvery,
		MaxPingsOut:                pingsMax,
		DisableJetStreamBanner:     true,
		CustomClientAuthentication: x.door,
	}
	if c.Cluster != nil {
		if err := joinOptions(o, c.Cluster); err != nil {
			return nil, err
		}
	}
	if c.ClientListen == "" {
		return o, nil
	}
	host, port, err := net.SplitHostPort(c.ClientListen)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "NATS client address %q is not host:port: %w", c.ClientListen, err)
	}
	if o.Port, err = strconv.Atoi(port); err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "NATS client address %q has no port number: %w", c.ClientListen, err)
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	o.Host, o.DontListen = host, false
	return o, nil
}

// joinOptions makes the server one of a cluster.
func joinOptions(o *server.Options, c *Cluster) error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "the address %q for the other nodes' NATS servers is not host:port: %w", c.Listen, err)
	}
	o.NoSystemAccount = false // by which the servers agree on streams
	o.LameDuckDuration, o.LameDuckGracePeriod = lameDuck, lameDuck/2
	o.Cluster = server.ClusterOpts{
		Name: c.Name, Host: host, Username: routeUser, Password: c.Secret, TLSConfig: c.TLS, NoAdvertise: true,
		ConnectRetries: -1, PoolSize: -1, // one connection: entries are few and large
		PingInterval: routePingEvery,
	}
	o.CustomRouterAuthentication = routeSecrets(append([]string{c.Secret}, c.Accept...))
	if c.TLS != nil {
		o.Cluster.TLSTimeout = 5
	}
	if o.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return proto.Errorf(proto.CodeInvalid, "the address %q for the other nodes' NATS servers has no port number: %w", c.Listen, err)
	}
	for _, r := range c.Routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: r, User: url.UserPassword(routeUser, c.Secret)})
	}
	// The routes are opened when clients' port is: on loopback, where only our
	// own connection's secret is taken.
	o.Host, o.Port, o.DontListen = "127.0.0.1", server.RANDOM_PORT, false
	return nil
}

// ready waits until the server takes connections, which is after it has
// recovered its streams, or has said that it cannot start.
func (x *embedded) ready(ctx context.Context, said *serverLog) error {
	deadline := time.Now().Add(serverStartMax)
	for !x.server.ReadyForConnections(100 * time.Millisecond) {
		if ctx.Err() != nil {
			return proto.Errorf(proto.CodeTimeout, "the embedded NATS server was not ready in time: %w", ctx.Err())
		}
		if said.fatal.get() != "" {
			return nil
		}
		if !x.server.Running() || time.Now().After(deadline) {
			return proto.Errorf(proto.CodeUnavailable, "the embedded NATS server did not start (%s): is its port in use?", said.last())
		}
	}
	return nil
}

// connect is our own connection, which never leaves the process.
func (x *embedded) connect(c *Config) (*nats.Conn, error) { return x.connectAs(x.user, c) }

func (x *embedded) connectAs(user string, c *Config) (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(x), nats.Name(c.Name),
		nats.UserInfo(user, x.secret), nats.CustomInboxPrefix(x.prefix),
		nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), quietErrors(c.Logger))
}

// InProcessConn implements nats.InProcessConnProvider: our own connection finds room
// however many strangers there are, also when it comes again.
func (x *embedded) InProcessConn() (net.Conn, error) {
	if x.server.NumClients() >= x.door.most {
		x.endStrangers()
	}
	return x.server.InProcessConn()
}

// endStrangers ends the connections that no key was shown for.
func (x *embedded) endStrangers() {
	list, err := x.server.Connz(&server.ConnzOptions{Limit: 2 * x.door.most})
	if err != nil {
		return // and there may be room all the same
	}
	known := map[uint64]bool{}
	x.door.mu.Lock()
	for _, open := range x.door.granted {
		for id := range open {
			known[id] = true
		}
	}
	x.door.mu.Unlock()
	for _, c := range list.Conns {
		if c.IP != "" && !known[c.Cid] { // our own have no address
			_ = x.server.DisconnectClientByID(c.Cid) // or it has just gone
		}
	}
}

func (x *embedded) stop() {
	if x.server != nil {
		if x.clustered {
			x.server.LameDuckShutdown() // others lead its streams before it goes
		}
		x.server.Shutdown()
		x.server.WaitForShutdown()
	}
	x.lock.Close() // gives the lock up
}

// lockDir makes dir and takes its lock, so that no second process writes it.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the log's directory cannot be made: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "kith-log.lock"), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the log's directory is not writable: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, proto.Errorf(proto.CodeConflict, "the log in %s is in use by another kith: stop it, or choose another data directory: %w", dir, err)
	}
	return f, nil
}

// diskFree is how many bytes of dir's file system may still be written.
func diskFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, proto.Errorf(proto.CodeInternal, "the free space of %s cannot be read: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// dirBytes is what the files below dir hold.
func dirBytes(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // a folder that vanished holds nothing
		}
		if fi, err := d.Info(); err == nil {
			n += fi.Size()
		}
		return nil
	})
	return n
}

// authentication lets our own connection in, and network clients as the
// configuration decides.
type authentication struct {
	own       *embedded
	authorize func(Credentials) (Grant, bool)
	limits    map[bounds]string // see clientLimits
	logger    *slog.Logger

	most    int           // connections of all grants
	refused atomic.Uint64 // connections for which there was no room

	mu      sync.Mutex
	granted map[string]map[uint64]Grant // guarded by mu: by name and connection
	told    time.Time                   // guarded by mu: when it was last said that one was refused
}

// clientLimits is how the server is told of limits that its own connections do not
// have: only a user's token has such. Nobody is let in by it.
func clientLimits(b bounds) (string, error) {
	account, err := nkeys.CreateAccount()
	if err != nil {
		return "", err
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return "", err
	}
	key, err := user.PublicKey()
	if err != nil {
		return "", err
	}
	claims := jwt.NewUserClaims(key)
	claims.Limits.Subs = int64(b.subscriptions)
	return claims.Encode(account)
}

// forbidden is out of every network client's reach: the log itself, its
// administration, and our own replies.
var forbidden = []string{"kith.log.>", "kith.ctl", "kith.ledger", "kith.audit", "kith.feed.>", "$JS.>", "$SYS.>", "$KV.>", "$O.>", "_KITH.>"}

// Check implements server.Authentication.
func (a *authentication) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if same(o.Username, a.own.user) && same(o.Password, a.own.secret) {
		c.RegisterUser(&server.User{Username: a.own.user})
		return true
	}
	if a.own.clustered && same(o.Username, a.own.system) && same(o.Password, a.own.secret) {
		c.RegisterUser(&server.User{Username: a.own.system, Account: a.own.server.SystemAccount()})
		return true
	}
	if a.authorize == nil {
		return false
	}
	g, ok := a.authorize(Credentials{User: o.Username, Password: o.Password, Token: o.Token, Remote: c.RemoteAddress()})
	if !ok || !a.note(c.GetID(), g) {
		return false
	}
	o.JWT = a.limits[g.bounds()]
	// With an account, else the limits are not looked at.
	c.RegisterUser(&server.User{Username: g.Name, Account: a.own.server.GlobalAccount(), Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: orNothing(g.Publish), Deny: forbidden},
		Subscribe: &server.SubjectPermission{Allow: orNothing(g.Subscribe), Deny: forbidden},
	}})
	return true
}

// note remembers a connection's grant if there is room for one more, of its name and of
// all, and asks whether it holds: what ended it may have come since it was given, and
// recheck before it is remembered.
func (a *authentication) note(id uint64, g Grant) bool {
	a.mu.Lock()
	open, most := a.granted[g.Name], g.bounds().connections
	if len(open) >= most {
		a.forgetClosed(open)
	}
	full := a.full()
	if full || len(open) >= most {
		a.refused.Add(1)
		now := time.Now()
		tell := now.Sub(a.told) >= refusedTellEvery
		if tell {
			a.told = now
		}
		a.mu.Unlock()
		if tell {
			who, n := "it has", most
			if full {
				who, n = "all clients together have", a.most
			}
			a.logger.Warn("a NATS client is not let in: "+who+" as many connections open as may be; have programs share them", "client", g.Name, "connections", n)
		}
		return false
	}
	if open == nil {
		open = map[uint64]Grant{}
		a.granted[g.Name] = open
	}
	open[id] = g
	a.mu.Unlock()
	return g.Holds == nil || g.Holds()
}

// full reports whether clients have as many connections as all may. The caller holds mu.
func (a *authentication) full() bool {
	open := func() (n int) {
		for _, list := range a.granted {
			n += len(list)
		}
		return n
	}
	if open() < a.most {
		return false
	}
	for _, list := range a.granted {
		a.forgetClosed(list)
	}
	return open() >= a.most
}

// forgetClosed takes out what is no longer a connection of the server. The caller
// holds mu.
func (a *authentication) forgetClosed(open map[uint64]Grant) {
	for id := range open {
		if a.own.server.GetClient(id) == nil {
			delete(open, id)
		}
	}
}

// recheck ends network clients' connections whose grant holds no more, and forgets
// those that ended by themselves.
func (x *embedded) recheck() {
	a := x.door
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, open := range a.granted {
		a.forgetClosed(open)
		for id, g := range open {
			if g.Holds != nil && !g.Holds() {
				_ = x.server.DisconnectClientByID(id) // or it has just gone
				delete(open, id)
			}
		}
		if len(open) == 0 {
			delete(a.granted, name)
		}
	}
}

// routeSecrets lets other servers of the cluster in by any of some secrets.
type routeSecrets []string

// Check implements server.Authentication.
func (list routeSecrets) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	ok := false
	for _, s := range list {
		ok = same(o.Username, routeUser) && same(o.Password, s) || ok
	}
	return ok
}

// network decides about network clients; without a port for them nobody is let
// in, also where a cluster needs one.
func network(c *Config) func(Credentials) (Grant, bool) {
	if c.ClientListen == "" {
		return nil
	}
	return c.Authorize
}

// orNothing keeps an empty list from meaning "everything".
func orNothing(subjects []string) []string {
	if len(subjects) == 0 {
		return []string{"_NOTHING"}
	}
	return subjects
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// serverLog passes what the server says at warn and above on to slog.
type serverLog struct {
	to    *slog.Logger
	error lastText
	fatal lastText // after which a server's own program would end

	mu   sync.Mutex
	told time.Time // guarded by mu: when what is repeated was said
}

// repeated begins what is said each second while another server is away.
const repeated = "Error trying to connect to route"

func (l *serverLog) say(level slog.Level, format string, v []any) {
	if strings.HasPrefix(format, repeated) {
		l.mu.Lock()
		soon := time.Since(l.told) < time.Minute
		if !soon {
			l.told = time.Now()
		}
		l.mu.Unlock()
		if soon {
			return
		}
	}
	text := fmt.Sprintf(format, v...)
	if level >= slog.LevelError {
		l.error.set(text)
	}
	l.to.Log(context.Background(), level, text, "from", "nats-server")
}

func (l *serverLog) last() string { return l.error.get() }

func (l *serverLog) Noticef(string, ...any)        {}
func (l *serverLog) Debugf(string, ...any)         {}
func (l *serverLog) Tracef(string, ...any)         {}
func (l *serverLog) Warnf(format string, v ...any) { l.say(slog.LevelWarn, format, v) }
func (l *serverLog) Errorf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
}

// Fatalf does not end the process: startEmbedded sees that it was called.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
	l.fatal.set(l.last())
}

func quietErrors(to *slog.Logger) nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
		subject := ""
		if sub != nil {
			subject = sub.Subject
		}
		to.Warn("NATS connection: "+err.Error(), "subject", subject)
	})
}
