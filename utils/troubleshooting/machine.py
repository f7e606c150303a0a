"""Limits of the machine: memory, GPU, files, processes."""

from utils.troubleshooting.known import Known

MACHINE = [
    Known(
        r"(?:OutOfMemoryError|RuntimeError|AcceleratorError): (?:CUDA out of memory\. Tried to allocate|"
        r"CUDA error: out of memory|MPS backend out of memory)",
        "the GPU's memory is full: activations grow with the batch size, the size of images and the length of texts",
        "trainer.accumulate=2 (same result, half the memory for activations), trainer.precision=bf16, a smaller --bs; "
        "nvidia-smi shows other processes on this GPU",
    ),
    Known(
        r"RuntimeError: \[enforce fail at \S+ .*DefaultCPUAllocator: .*you tried to allocate (\d+ bytes)|"
        r"\w*MemoryError: Unable to allocate ([\d.]+ \w+)",
        "the machine has no memory (RAM) for {1}{2} more; a very large number is most often a wrong shape",
        "check the sizes in that line; otherwise trainer.accumulate=2, a smaller --bs, or fewer workers",
    ),
    Known(
        r"(?:RuntimeError|AcceleratorError): CUDA error: (?:device-side assert triggered|an illegal memory)",
        "an index on the GPU was out of range, most often a label or a word number; the traceback may show a "
        "later line",
        "run the same on the CPU, which names the place and the value: -d cpu. Or set CUDA_LAUNCH_BLOCKING=1",
    ),
    Known(
        r"(?:RuntimeError|AcceleratorError): CUDA error: no kernel image is available for execution",
        "this PyTorch was not built for this GPU, which is too new or too old for it",
        "another PyTorch: uv pip install --torch-backend auto torch torchvision",
    ),
    Known(
        r"DistBackendError: NCCL error[\s\S]*Duplicate GPU detected",
        "two processes of the run use one GPU, and each needs its own",
        "as many processes as GPUs: torchrun --nproc_per_node=N, or -d 0,1; CUDA_VISIBLE_DEVICES must name N of them",
    ),
    Known(
        r"RuntimeError: (\w+) does not have a deterministic implementation",
        "trainer.deterministic: true allows no kernel that may add up numbers in another order, and {1} does",
        "for classes of pixels or tokens: loss: cross_entropy, which has such kernels; or trainer.deterministic=false",
    ),
    Known(
        r"RuntimeError: (?:CUDA error: CUBLAS_STATUS_|cuDNN error: CUDNN_STATUS_)",
        "a CUDA library failed: most often the GPU's memory is full, or a label is out of range",
        "a smaller --bs; -d cpu shows whether a label is wrong",
    ),
    Known(
        r"RuntimeError: (?:Cannot re-initialize CUDA in forked subprocess|cannot pin 'torch\.cuda)",
        "the data set or its transforms put tensors on the GPU; workers and the batches they make use the CPU",
        "no .cuda() and no device= in __getitem__: the trainer moves batches; or data_loader.args.num_workers=0",
    ),
    Known(
        r"RuntimeError: \s*An attempt has been made to start a new process before",
        "on Windows and macOS, workers import the file that started them, which starts training again",
        "`if __name__ == '__main__':` before what your script runs; or data_loader.args.num_workers=0",
    ),
    Known(
        r"RuntimeError: Found no NVIDIA driver on your system|AssertionError: Torch not compiled with CUDA enabled|"
        r"RuntimeError: No CUDA GPUs are available",
        "your code asks for a GPU (.cuda() or device='cuda'), but PyTorch finds none here",
        "leave moving to the trainer (n_gpu, -d); make tensors with device=x.device. If there is a GPU: "
        "nvidia-smi must list it, and torch.version.cuda must not be None",
    ),
    Known(
        r"(?:OSError: \[Errno 24\]|RuntimeError:) Too many open files|RuntimeError: received \d+ items of ancdata",
        "this process may not open more files; each worker and each tensor that it sends needs some",
        "ulimit -n 65536, fewer data_loader.args.num_workers; open files in __getitem__ with `with open(...)`",
    ),
    Known(
        r"RuntimeError: (?:unable to (?:open|mmap|allocate|resize) shared memory|.*unable to write to file </torch_)|"
        r"RuntimeError: unable to mmap \d+ bytes|OSError: \[Errno 28\] No space left on device: '/dev/shm",
        "shared memory (/dev/shm), through which workers send batches, is full or not allowed",
        "data_loader.args.num_workers=0 or fewer; in a container: docker run --shm-size=8g",
    ),
    Known(
        r"RuntimeError: DataLoader worker \(pid\(?s?\)? .*(?:is killed by signal|exited unexpectedly)",
        "a worker process ended: killed by the system because memory (RAM or /dev/shm) ran out, or it crashed",
        "fewer num_workers, a smaller batch_size; num_workers=0 shows the error in the main process",
    ),
    Known(
        r"(?:AttributeError|PicklingError): Can't (?:pickle|get) local object '?(\S*?)'?$|"
        r"(?:AttributeError|PicklingError): Can't pickle (<function .*?<lambda> at \w+>|<function \S+)",
        "what goes to another process must be found by its name in a file: a lambda or a function inside of a function "
        "is not ({1}{2})",
        "def at the top of a file, functools.partial for its arguments; or data_loader.args.num_workers=0",
    ),
]
