"""The help texts of the commands; `tests/test_examples.py` runs their examples."""

STATUS = """\
exit status:
  0    success
  1    training diverged: the loss or a parameter became non-finite
  2    wrong usage; a missing or damaged data set, model or library; a result that could not be written
  130  stopped by Ctrl-C; the requested files are saved
  141  the reader of the output closed the pipe
"""
EXAMPLES = """\
examples:
  fastmlp train                                  on the bundled 8x8 digits, offline: 98 % in a second
  fastmlp train mnist --save digits.safetensors  on MNIST, from FASTMLP_DATA or downloaded once: 98 %
  fastmlp evaluate digits.safetensors mnist      on the test images of MNIST
  fastmlp predict digits.safetensors photo.jpg   for a picture of a digit
  fastmlp export digits.safetensors --to digits.onnx
                                                 for other programs
  fastmlp bench                                  fastmlp against the notebook's formulas
  fastmlp pack mnist --to mnist.pack             in the form that training reads; also more than fits into memory
  fastmlp info                                   the active backend, and why it was chosen
  fastmlp train --help                           all options of a command, with examples
"""
TRAIN = """\
examples:
  fastmlp train
      the digits: 98 % of the test samples are right
  fastmlp train mnist --hidden 256 128 --epochs 8
      MNIST with two hidden layers, for more epochs: 98.4 % are right
  fastmlp train --schedule constant --learning-rate 0.002 --epochs 500 --validation 0.1 --patience 20 --plot pictures
      sets aside a tenth of the training data, stops when the loss on it no longer falls, and draws figures
  fastmlp train --epochs 20 --checkpoint run.ckpt
  fastmlp train --epochs 40 --checkpoint run.ckpt --resume
      continues after epoch 20, Ctrl-C, a kill or a power cut. With the same --epochs, it ends with the same bits as an
      uninterrupted run; with more, the learning rate continues as in a run of that many epochs
  fastmlp train --optimizer gd
      trains as the notebook does, on all samples at once: 97 % are right
  fastmlp train letters.csv --save letters.safetensors --json > letters.json
      a table with the label in the first column; prints the result as one JSON object
  fastmlp train iris.csv --label species --save iris.safetensors
      a table with the label in the column "species"
  fastmlp train houses.csv --target price --save houses.safetensors --plot pictures
      a regression: prints R2, and draws the predicted against the true prices of the test samples
  fastmlp train rentals.csv --target bicycles --loss poisson
      predicts counts: the predictions are never negative
  fastmlp train houses.csv --label town --category rooms --ignore price
      takes the numbers of rooms as categories, as columns of text are, and leaves the prices out
  fastmlp train news.svm
      a sparse file of SVMlight or LIBSVM
  fastmlp train mnist.pack --save packed.safetensors
      a packed file, which need not fit into memory; it has no test part
  mpiexec -n 4 fastmlp train mnist --optimizer gd --threads 1
      divides the samples among 4 processes, to the same bits; needs mpi4py

Without options, train uses the recipe that learns fastest: adam, one-cycle to 0.008 (the learning rate rises to it for
a tenth of the run, then falls), in single precision, from batches of 32 samples and 40 epochs for small data to batches
of 128 samples and 4 epochs for large data. An option replaces its part of the recipe. sgd has Nesterov's momentum of
0.9. gd and lbfgs take all samples at once, for 100 epochs (gd on the digits: 500), in double precision: gd in steps of
--alpha, lbfgs in steps that it finds itself.

DATA is digits, mnist, fashion_mnist, a folder of IDX files, a .npz file with the arrays x_train, y_train, x_test and
y_test, a table (.csv, .tsv or .txt) separated by commas, semicolons or tabs, or a file of SVMlight or LIBSVM (.svm,
.svmlight or .libsvm). The label of a table is in the column given by --label, else in the column named label, class or
target, else in the only text column, else in the first column. Other columns of text hold categories, which become
columns of 0 and 1; all others must be numbers and are standardised. The label of SVMlight is the first number of each
line; with --target first, it is the target of a regression. Targets are standardised, so that huber counts a residual
beyond one standard deviation linearly; counts for poisson are divided by their mean. A file that fastmlp pack wrote is
recognised by its content; all of it is used for training. If there is no test part, every fifth sample of each class
becomes a test sample.
"""
EVALUATE = """\
examples:
  fastmlp evaluate digits.safetensors mnist
  fastmlp evaluate digits.safetensors mnist --plot pictures
  fastmlp evaluate digits.safetensors mine.csv --part all --json
  fastmlp evaluate houses.safetensors houses.csv
  fastmlp evaluate packed.safetensors test.pack        a packed file, all of its samples

MODEL is a file written by train --save or --checkpoint. Inputs are scaled as in training. The columns of a table are
found by their names, in any order. Its label or target is the one of the training, unless --label or --target names
another column.
"""
PREDICT = """\
examples:
  fastmlp predict digits.safetensors three.png
  fastmlp predict digits.safetensors scans/            all pictures in a folder and in its folders
  fastmlp predict digits.safetensors t10k-images-idx3-ubyte.gz | head
  fastmlp predict digits.safetensors a.jpg b.jpg --json
  fastmlp predict digits.safetensors pictures.npz      an array of pictures, as x_test in a file for train
  fastmlp predict houses.safetensors new.csv           a price for each row of a table
  fastmlp predict houses.safetensors new.csv --output prices.csv

A table, or a file of SVMlight, holds raw rows as in training, with or without labels. Columns are found by their names,
in any order; other columns are ignored. A .npy file, or the array x, X or x_test of a .npz file or its only one, holds
raw samples along its first axis.
A picture shows a single digit or similar object, dark on light or light on dark. It is cropped, resized and centred
like the training images, and the steps are printed next to the answer. A picture that already has their size is only
inverted, if its border is light. A warning names each picture with several shapes.
"""
EXPORT = """\
examples:
  fastmlp export digits.safetensors --to digits.onnx

Writes a trained network as an ONNX file, which other programs and languages run. It takes samples as rows of raw
numbers, as train does: the scaling of pictures, the mean and standard deviation of columns and the encoding of
categories are part of the file. Prints its inputs and outputs. Pictures must have the size of the training images.
"""
PACK = """\
examples:
  fastmlp pack mnist --to mnist.pack                   the training part
  fastmlp pack mnist --part test --to test.pack        the test part, for fastmlp evaluate
  fastmlp pack houses.csv --target price --to houses.pack
  fastmlp pack x.npy --labels y.npy --to own.pack      arrays of your own, samples as rows

Writes samples in the form that training reads, with their labels and their preparation, into one file. Training maps it
a block at a time, so that it need not fit into memory. DATA is as for train, or a .npy file of samples (m, ...). A .npy
file, and a folder of IDX files that are not compressed, need not fit into memory either. Labels in a .npy file are
integers, or numbers with a fraction to predict. Tables are standardised by their training part, all other samples are
divided by one number, or multiplied by --scale. Shuffle data that are sorted by class before you pack them.
"""
BENCH = """\
examples:
  fastmlp bench
  fastmlp bench mnist --dtype float32 --seconds 5

Takes one training step with the notebook's formulas in NumPy, with fastmlp's functions, and with fastmlp.MLP on packed
input. First checks that the results agree, then times the three in turn. Takes about --seconds plus the compile time.
"""
INFO = """\
examples:
  fastmlp info
  fastmlp info digits.safetensors   also shows the contents of a model file
  fastmlp info mnist.pack           or of a packed file
"""
