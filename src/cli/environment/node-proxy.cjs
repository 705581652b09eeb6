// Written by bursar; changes are overwritten. Loaded by Node through NODE_OPTIONS.
//
// Node before 22.21 (and 23.0 to 24.4) has no support for proxy variables in `http` and `https`, so its requests would
// go past bursar. There this file opens their connections, and those of `fetch`, through CONNECT. A Node that can do it
// by itself is left alone, and so is everything if NODE_USE_ENV_PROXY is not 1, which is the switch of newer versions.
'use strict';

const proxies = {
  'http:': proxyFrom(process.env.http_proxy || process.env.HTTP_PROXY),
  'https:': proxyFrom(process.env.https_proxy || process.env.HTTPS_PROXY),
};
const wanted = process.env.NODE_USE_ENV_PROXY === '1' && (proxies['http:'] || proxies['https:']);
// Other runtimes that load this file for the sake of NODE_OPTIONS read the proxy variables themselves.
const node = !process.versions.bun && !process.versions.deno;
if (wanted && node && !process.allowedNodeEnvironmentFlags.has('--use-env-proxy')) {
  coverAgents();
  coverFetch();
}

function proxyFrom(text) {
  try {
    const url = new URL(text);
    return url.protocol === 'http:' || url.protocol === 'https:' ? url : undefined;
  } catch {
    return undefined;
  }
}

// Every connection of `http` and `https` is opened by an agent: the global one, one of its own for `agent: false`, or
// one that the program made. Agents of other classes that open connections by themselves are not affected.
function coverAgents() {
  const http = require('node:http');
  const https = require('node:https');

  const plain = http.Agent.prototype.createConnection;
  http.Agent.prototype.createConnection = function createConnection(...given) {
    const { options, done } = read(given);
    const proxy = done && proxyOf('http:', options, 80);
    if (!proxy) return plain.apply(this, given);
    open(this, proxy, options, 80, (socket) => socket, done);
  };

  const secure = https.Agent.prototype.createConnection;
  https.Agent.prototype.createConnection = function createConnection(...given) {
    const { options, done } = read(given);
    const proxy = done && proxyOf('https:', options, 443);
    if (!proxy) return secure.apply(this, given);
    open(this, proxy, options, 443, (socket) => secure.call(this, { ...options, socket }), done);
  };
}

// Opens a tunnel for an agent. Meanwhile its socket is one of the agent's, as a connecting one would be: it counts for
// `maxSockets`, and `destroy` ends it. What fails is a socket that fails, since agents go on with the next request only
// after a socket.
function open(agent, proxy, options, defaultPort, finish, done) {
  const name = options._agentKey;
  let connecting;
  const started = (socket) => {
    if (name === undefined) return;
    connecting = socket;
    (agent.sockets[name] ??= []).push(socket);
    agent.totalSocketCount += 1;
  };
  const ended = () => {
    const index = agent.sockets[name]?.indexOf(connecting) ?? -1;
    if (index < 0) return;
    agent.sockets[name].splice(index, 1);
    if (agent.sockets[name].length === 0) delete agent.sockets[name];
    agent.totalSocketCount -= 1;
  };
  const fail = (error) => {
    const { Socket } = require('node:net');
    const failed = new Socket();
    done(null, failed);
    failed.destroy(error);
  };
  tunnel(proxy, options.host, options.port || defaultPort, started, (error, socket) => {
    ended();
    if (error) return fail(error);
    let finished;
    try {
      finished = finish(socket);
    } catch (unusable) {
      socket.destroy();
      return fail(unusable);
    }
    done(null, finished);
  });
}

// (options, done), as agents call it. A caller that leaves `done` out expects a socket at once, which cannot be given.
function read([options, done]) {
  const usable = typeof options === 'object' && options !== null && typeof done === 'function';
  return usable ? { options, done } : {};
}

function proxyOf(protocol, options, defaultPort) {
  // A unix socket, or a connection that another proxy agent has opened already.
  if (options.socketPath || options.socket) return undefined;
  return proxyFor(protocol, options.host || 'localhost', Number(options.port || defaultPort));
}

// The dispatcher of `fetch` stays the one that Node ships, with its pools, timeouts and streams; only the way in which
// it opens connections is replaced. The package `undici` uses the same dispatcher unless the program sets another one.
function coverFetch() {
  const dispatcher = Symbol.for('undici.globalDispatcher.1');
  // Node makes it together with this class, when the class is used for the first time.
  if (typeof globalThis.Headers !== 'function') return;
  const { constructor: Agent } = globalThis[dispatcher] ?? {};
  if (Agent?.name !== 'Agent') return;
  globalThis[dispatcher] = new Agent({ connect });
}

// Until when undici waits for a connection.
const PATIENCE = 10_000;

function connect({ hostname, protocol, port, servername, httpSocket }, done) {
  const net = require('node:net');
  const tls = require('node:tls');
  const secure = protocol === 'https:';
  const host = bare(hostname);
  port = Number(port || (secure ? 443 : 80));
  const name = servername || (net.isIP(host) ? '' : host);

  let waiting = true;
  let opened = httpSocket;
  const finish = (error, socket) => {
    if (!waiting) return socket?.destroy();
    waiting = false;
    clearTimeout(timer);
    if (error) return done(error);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 60_000);
    done(null, socket);
  };
  const timer = setTimeout(() => {
    const late = new Error(`Connect Timeout Error (${host}:${port})`);
    finish(Object.assign(late, { name: 'ConnectTimeoutError', code: 'UND_ERR_CONNECT_TIMEOUT' }));
    opened?.destroy();
  }, PATIENCE);

  const secured = (socket) => {
    const options = { host, servername: name, ALPNProtocols: ['http/1.1'], highWaterMark: 16384 };
    opened = tls.connect({ ...options, ...(socket ? { socket } : { port }) });
    opened.once('error', finish).once('secureConnect', () => {
      opened.off('error', finish);
      finish(null, opened);
    });
  };

  const proxy = proxyFor(protocol, host, port);
  if (proxy) {
    const keep = (socket) => (opened = socket);
    tunnel(proxy, host, port, keep, (error, socket) => {
      if (error || !waiting) return finish(error, socket);
      if (secure) secured(socket);
      else finish(null, socket);
    });
  } else if (secure) {
    secured(httpSocket);
  } else {
    opened = net.connect({ host, port, highWaterMark: 65536 });
    opened.once('error', finish).once('connect', () => {
      opened.off('error', finish);
      finish(null, opened);
    });
  }
}

// Opens a connection through the proxy. `started` gets the socket to the proxy before anything was sent.
function tunnel(proxy, host, port, started, done) {
  const net = require('node:net');
  const tls = require('node:tls');
  const http = require('node:http');
  const to = bare(proxy.hostname);
  const where = { host: to, port: portOf(proxy) };
  const connect = () => {
    const name = net.isIP(to) ? {} : { servername: to };
    const socket = proxy.protocol === 'https:' ? tls.connect({ ...where, ...name }) : net.connect(where);
    socket.setNoDelay(true);
    started(socket);
    return socket;
  };
  const authority = `${net.isIPv6(host = bare(host)) ? `[${host}]` : host}:${port}`;
  const headers = { Host: authority };
  if (proxy.username || proxy.password) {
    const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
    headers['Proxy-Authorization'] = `Basic ${Buffer.from(login).toString('base64')}`;
  }
  const request = http.request({ method: 'CONNECT', path: authority, headers, createConnection: connect });
  request.once('connect', (answer, socket, head) => {
    if (answer.statusCode !== 200) {
      socket.destroy();
      const text = `${answer.statusCode} ${answer.statusMessage}`;
      return done(new Error(`bursar, the proxy at ${proxy.host}, refused the connection to ${authority}: ${text}`));
    }
    if (head.length > 0) socket.unshift(head);
    done(null, socket);
  });
  request.once('error', done);
  request.end();
}

// Undefined for what NO_PROXY names, and for the proxy itself: some packages speak to it by themselves.
function proxyFor(protocol, host, port) {
  const proxy = proxies[protocol];
  host = bare(host).toLowerCase();
  if (!proxy || exempt(host, port)) return undefined;
  const itself = Object.values(proxies).some((one) => one && bare(one.hostname) === host && portOf(one) === port);
  return itself ? undefined : proxy;
}

function portOf(url) {
  return Number(url.port || (url.protocol === 'https:' ? 443 : 80));
}

function bare(host) {
  return host.startsWith('[') ? host.slice(1, -1) : host;
}

// NO_PROXY as Node reads it (names are exact, `.name` and `*.name` are for what is below), and ranges of addresses.
function exempt(host, port) {
  const { isIP, BlockList } = require('node:net');
  const list = process.env.no_proxy || process.env.NO_PROXY || '';
  return list.split(/[\s,]+/).some((entry) => {
    let name = entry.toLowerCase();
    if (name === '' || name === '*') return name === '*';
    const [, before, digits] = /^(\[.*\]|[^:]*):(\d+)$/.exec(name) ?? [];
    if (digits) {
      if (Number(digits) !== port) return false;
      name = before;
    }
    name = bare(name);
    const [address, bits] = name.split('/');
    if (bits !== undefined) {
      if (!isIP(address) || isIP(address) !== isIP(host)) return false;
      const family = isIP(address) === 4 ? 'ipv4' : 'ipv6';
      const ranges = new BlockList();
      try {
        ranges.addSubnet(address, Number(bits), family);
      } catch {
        return false;
      }
      return ranges.check(host, family);
    }
    if (name.startsWith('*')) return host.endsWith(name.slice(1));
    return name.startsWith('.') ? host.endsWith(name) : host === name;
  });
}
