"""A service behind TLS whose authority nobody knows: tls_server.py FOLDER [ANSWER].

It leaves the authority's certificate as FOLDER/authority.pem, says the port where it listens, and answers every request, until its standard
input ends: with ANSWER, else like a SageMaker that has started an execution.
"""
import datetime, http.server, ipaddress, json, ssl, sys, threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

folder = sys.argv[1]
now = datetime.datetime.now(datetime.timezone.utc)
STARTED = json.dumps({"PipelineExecutionArn": "arn:aws:sagemaker:eu-west-1:210987654321:pipeline/p/execution/e1"})
ANSWER = (sys.argv[2] if len(sys.argv) > 2 else STARTED).encode()


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(name, key, issuer, issuer_key, extension):
    begun, ends = now - datetime.timedelta(days=1), now + datetime.timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(begun).not_valid_after(ends)
    return made.add_extension(extension, critical=True).sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Answering(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
with open(f"{folder}/authority.pem", "wb") as file:
    file.write(certificate("authority", authority, "authority", authority, x509.BasicConstraints(ca=True, path_length=0)))
with open(f"{folder}/server.pem", "wb") as file:
    file.write(certificate("server", server, "authority", authority, place) + pem(server))
listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{folder}/server.pem")
listening.socket = context.wrap_socket(listening.socket, server_side=True)
threading.Thread(target=listening.serve_forever, daemon=True).start()
print(listening.server_address[1], flush=True)
sys.stdin.read()
