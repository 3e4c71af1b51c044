"""The differential suite on AVX-512, for processors that lack it: on one that Bochs emulates.

Bochs, a kernel and a Python come from Debian 13 into `.cache/emulator`, packages unpacked and not installed. A machine of nothing but
these, the daemon, the client and the suite starts from an ISO image, runs the suite, and prints the hashes of its results on
a serial line. NumPy's reference is weaker there, as Bochs computes the x87's logarithms and arc tangents to fewer digits: what counts
is that tensord's bits are those of the same suite on this machine.
"""

import base64
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "emulator"
SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
TOOLS = "bochs bochs-term bochsbios linux-image-cloud-amd64 grub-pc-bin grub-common xorriso mtools ncurses-base"
GUEST = "base-files python3-minimal libpython3-stdlib busybox-static libgcc-s1 libstdc++6 zlib1g"
WHEELS = "numpy pytest ml_dtypes mpmath"
# What a guest does not need of its packages.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/include", "var", "dev", "run", "boot")

BOCHSRC = """\
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=2048, host=2048
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=/run/guest.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=/run/serial.txt
display_library: term
log: /run/bochs.log
panic: action=report
clock: sync=none
"""

# Without XSAVES, which Bochs describes otherwise than Linux expects; with the periodic tick, since its one-shot timer loses ticks.
GRUB = """\
set timeout=0
menuentry tensord {
  linux /vmlinuz console=ttyS0 quiet clearcpuid=xsaves,xsavec mitigations=off lpj=1000000 tsc=reliable highres=off nohz=off \
lapic=notscdeadline panic=-1
  initrd /initrd
}
"""

INIT = """\
#!/usr/bin/busybox sh
export PATH=/usr/bin HOME=/tmp PYTHONPATH=/w/site:/w/figures PYTHONDONTWRITEBYTECODE=1
export TENSORD_DAEMON=/w/tensord TENSORD_SIMD={level} RECORD_BITS=/tmp/bits.json
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
cd /w
python3 -m pytest -q --color=no --tb=no -W ignore -p no:cacheprovider -p record_bits tests/conformance {arguments} 2>&1
echo "BITS"
busybox base64 /tmp/bits.json
echo "END"
busybox sleep 1
busybox poweroff -f
"""


class CannotEmulate(Exception):
    """There is no emulated machine; the message says what to do."""


def run(*command, **more):
    """Runs a command; raises with its last words where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        tail = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise CannotEmulate(f"{' '.join(map(str, command))}: status {done.returncode}\n    {tail}")
    return done.stdout


def unpacked(name, packages):
    """A folder with Debian packages and all that they need, unpacked."""
    folder = CACHE / name
    mark = folder / ".packages"
    if not (mark.exists() and mark.read_text() == packages):
        if os.geteuid() != 0:
            raise CannotEmulate("only root can unpack the emulated machine's packages and start it")
        if shutil.which("mmdebstrap") is None:
            run("apt-get", "install", "-y", "-qq", "mmdebstrap", env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        included = "--include=" + ",".join(packages.split())
        run("mmdebstrap", "--quiet", "--variant=extract", included, SUITE, folder, MIRROR)
        mark.write_text(packages)
    return folder


def guest_tree(to, daemon, level, arguments):
    """Everything that the emulated machine has."""
    base = unpacked("guest", GUEST)

    def left_out(folder, names):
        inside = os.path.relpath(folder, base)
        return [name for name in names if os.path.normpath(os.path.join(inside, name)) in LEFT_OUT]

    shutil.copytree(base, to, symlinks=True, ignore=left_out)
    for name in ("dev", "proc", "sys", "run"):
        (to / name).mkdir(exist_ok=True)
    version = next((to / "usr/lib").glob("python3.*")).name.removeprefix("python")
    site = to / "w/site"
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--target", site,
        "--python-version", version, *WHEELS.split(),
    )
    import tensord

    package = Path(tensord.__file__).parent
    shutil.copytree(package, site / "tensord", ignore=shutil.ignore_patterns("bin", "__pycache__"))
    shutil.copytree(ROOT / "tests/conformance", to / "w/tests/conformance", ignore=shutil.ignore_patterns("__pycache__"))
    (to / "w/figures").mkdir()
    shutil.copy(ROOT / "bench/figures/record_bits.py", to / "w/figures")
    run("strip", "-o", to / "w/tensord", daemon)
    init = to / "init"
    init.write_text(INIT.format(level=level, arguments=arguments))
    init.chmod(0o755)


def image(tools, daemon, level, arguments):
    """An ISO image that starts the guest, in the tools' folder."""
    with tempfile.TemporaryDirectory(prefix="tensord-guest-") as folder:
        tree, iso = Path(folder) / "tree", tools / "run/iso"
        guest_tree(tree, daemon, level, arguments)
        shutil.rmtree(iso, ignore_errors=True)
        (iso / "boot/grub").mkdir(parents=True)
        (iso / "boot/grub/grub.cfg").write_text(GRUB)
        shutil.copy(next((tools / "boot").glob("vmlinuz-*")), iso / "vmlinuz")
        with open(iso / "initrd", "wb") as initrd:
            command = "find . | busybox cpio -o -H newc | gzip -1"
            path = f"{tree / 'usr/bin'}:{os.environ['PATH']}"
            subprocess.run(command, shell=True, check=True, cwd=tree, stdout=initrd, stderr=subprocess.DEVNULL, env={"PATH": path})
    run("chroot", tools, "grub-mkrescue", "-o", "/run/guest.iso", "/run/iso")


def results(serial):
    """What the machine printed up to now: the suite's words, and the hashes as soon as they are whole."""
    text = serial.read_text(errors="replace").replace("\r", "") if serial.exists() else ""
    bits = re.search(r"^BITS\n(.*)^END$", text, re.S | re.M)
    return text, base64.b64decode(bits[1]) if bits else None


def suite(daemon, level, arguments="", limit_s=3600.0):
    """Runs the differential suite at a level on an emulated processor: the last line of pytest, and the JSON text of the hashes."""
    tools = unpacked("tools", TOOLS)
    image(tools, daemon, level, arguments)
    (tools / "run/bochsrc").write_text(BOCHSRC)
    serial = tools / "run/serial.txt"
    serial.unlink(missing_ok=True)
    ours, its = pty.openpty()
    bochs = subprocess.Popen(
        ["chroot", tools, "/usr/bin/bochs-bin", "-q", "-f", "/run/bochsrc"],
        stdin=its, stdout=its, stderr=its, start_new_session=True, env={"PATH": os.environ["PATH"], "TERM": "xterm", "HOME": "/run"},
    )
    os.close(its)
    os.set_blocking(ours, False)
    try:
        end = time.monotonic() + limit_s
        while True:
            running = bochs.poll() is None
            text, bits = results(serial)
            if bits is not None:
                line = re.findall(r"^.*\d+ (?:passed|failed).* in .*$", text, re.M)
                return (line or ["no summary"])[-1], bits
            if not running or time.monotonic() > end:
                tail = "\n    ".join(text.strip().splitlines()[-8:])
                raise CannotEmulate(f"the emulated machine {'took too long' if running else 'ended early'}\n    {tail}")
            if sys.stdout.isatty():
                share = re.findall(r"\[ *(\d+)%\]", text)
                print(f"\r       emulating: {share[-1] if share else 0} % of the suite", end="", flush=True)
            try:
                os.read(ours, 1 << 16)  # its screen, which nobody looks at
            except OSError:
                pass
            time.sleep(0.5)
    finally:
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)
        bochs.kill()
        bochs.wait()
        os.close(ours)

